"""Train the network, or one for each seed, store it as a model bundle, and predict from the bundle alone."""

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import narwhals as nw
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from embedline.errors import DataError
from embedline.pipelines.tabular.arrays import MappedRows, TableArrays, blocks_of, rows_of
from embedline.pipelines.tabular.columns import TEST, TRAIN
from embedline.pipelines.tabular.decisions import check_decision, choose_decisions
from embedline.pipelines.tabular.defaults import follow_table
from embedline.pipelines.tabular.encoder import Encoder
from embedline.pipelines.tabular.linear import LinearInputs, choose_penalty, fit_linear_model, some_rows
from embedline.pipelines.tabular.losses import make_loss
from embedline.pipelines.tabular.model import KIND, LoadedModel, combine, load_model, network_outputs
from embedline.pipelines.tabular.network import EmbeddingNetwork, build_network, network_config
from embedline.pipelines.tabular.options import BlendOptions, LinearOptions, NetworkOptions, TableTraining
from embedline.pipelines.tabular.predictions import epoch_metrics, row_losses
from embedline.pipelines.tabular.targets import (
    NumericTarget,
    actual_values,
    invert_target,
    prefix_of,
)
from embedline.pipelines.tabular.trees import TreeMember, blended
from embedline.training import lr_finder
from embedline.training.batches import Loss, TableBatches
from embedline.training.checkpoint import Record
from embedline.training.device import Accelerator, make_accelerator
from embedline.training.early_stopping import hold_out, row_monitor
from embedline.training.ensemble import in_threads, train_ensemble
from embedline.training.model_file import ModelBundle
from embedline.training.options import FinderOptions, HeldOutStopping
from embedline.training.train import Evaluate, FitResult, fit

SHARES = tuple(share / 10 for share in range(10, -1, -1))  # of equals, the first
TREE_SHARES = SHARES[:0:-1]  # from 0 to 0.9
MOST_TREES = 4  # members whose held-out rows choose the share of LightGBM
BLOCKS = 5  # of the rows that a member holds out

logger = logging.getLogger(__name__)


def train_network(
    encoded: nw.DataFrame[Any],
    encoder: Encoder,
    network: NetworkOptions,
    training: TableTraining,
    *,
    name: str = "",
) -> tuple[ModelBundle, list[Record]]:
    """Train one network for each of ``training.seeds`` on the split ``train``.

    Args:
        name: of this training among several of one node, such as a fold.

    Returns:
        The bundle, and the history: a record every few steps with ``member``, ``step``, ``epoch``, ``lr`` and
        ``train_loss``; the last record of each epoch also has the metrics of the split ``test`` if there is one. The
        bundle holds the network of the last epoch, or with ``training.early_stopping`` of the epoch that is best on
        the validation rows, which are held out of the training rows. The split ``test`` decides nothing.
    """
    encoder = _with_quantiles(encoder, training)
    _loss_of(encoder, training)  # raises if the settings do not fit, before other processes start
    with rows_of(encoded, encoder, training) as store:
        learned, held_out = store.rows(TRAIN), store.rows(TEST, labelled=False)
        _, values, target = learned.arrays().labelled(encoder)
        if not network.layers or not training.epochs:
            variables = encoder.code_columns, encoder.cardinalities
            with_means = [each.columns[0] for each in encoder.target_means if len(each.columns) == 1]
            network, training = follow_table(network, training, *variables, len(target), with_means)
        if training.decision:
            check_decision(encoder.targets, training.decision, training.early_stopping)
        if network.linear and training.early_stopping is None:
            raise DataError(
                "network.linear needs rows that the networks do not learn from, to mix the two by: set "
                "training.early_stopping, such as {patience: 3, fraction: 0.1, rotate: true}"
            )
        if (network.batch_norm or network.continuous_batch_norm) and min(training.batch_size, len(target)) < 2:
            raise DataError(
                f"network.batch_norm needs two rows a batch: training.batch_size is {training.batch_size}, and there "
                f"are {len(target)} row(s) to train on"
            )
        config = network_config(encoder, network, values.numpy())
        blocks = [[actual_values(block, each) for each in encoder.targets] for block in blocks_of(encoded, TEST)]
        actual = [np.concatenate(values) for values in zip(*blocks, strict=True)]
        spec = TableNetworkSpec(learned, held_out, actual, encoder, training, config)
        if network.linear:
            spec = replace(spec, penalties=spec.choose_penalties())
        result = train_ensemble(spec, rows=len(target), name=name)
        if network.linear:
            share = hidden_share(spec, result.weights)
            result.weights.update({f"{member}.share": torch.tensor(share) for member in range(len(training.seeds))})
            result.metrics["linear_share"] = 1.0 - share
        bundle = ModelBundle(KIND, config, encoder.model_dump(mode="json"), result.weights, result.metrics)
        if training.blend:
            _add_trees(bundle, learned.arrays(), training, training.blend)
        inner = _inner_predictions(bundle, learned, training) if training.decision and training.decision.beta else {}
    if training.decision or training.class_weights:
        bundle.metrics["decisions"] = choose_decisions(encoder.targets, training, inner)
    return bundle, result.history


def _add_trees(bundle: ModelBundle, learned: TableArrays, training: TableTraining, options: BlendOptions) -> None:
    """Fit LightGBM beside the networks of a bundle, unless a share that is to be chosen is best at 0."""
    started, encoder = time.perf_counter(), Encoder.model_validate(bundle.encoder)
    trees = TreeMember.fit(learned, encoder, options)
    share: float = trees.share
    if options.share == "auto" and isinstance(training.early_stopping, HeldOutStopping):
        share = blend_share(load_model(bundle), learned, training.early_stopping, options, trees.iterations)
    seconds = time.perf_counter() - started
    logger.info("LightGBM has the share %g of the prediction: fitted in %.0f s", share, seconds)
    if share:
        bundle.weights.update(trees.weights())
        chosen = options.model_copy(update={"share": share}).model_dump(mode="json")
        n_trees = float(sum(booster.num_trees() for booster in trees.boosters))
        bundle.metrics["blend"] = {"options": chosen, "trees": n_trees, "seconds": seconds}


def blend_share(
    model: LoadedModel,
    learned: TableArrays,
    stopping: HeldOutStopping,
    options: BlendOptions,
    iterations: tuple[int, ...],
) -> float:
    """Share of LightGBM in the prediction, 0 to 0.9, by the rows that the networks held out of their training.

    For each network, LightGBM is fitted to the rows that it learned from. The share is chosen as by :func:`best_share`:
    what it gains over the networks alone counts less two standard errors.

    Args:
        iterations: rounds of boosting for each target.
    """
    tensors, targets = learned.labelled(model.encoder), model.encoder.targets
    losses: list[list[float]] = []
    for member, network in list(enumerate(model.networks))[:MOST_TREES]:
        rows, held_out = (
            TableArrays(*(tensor[chosen] for tensor in tensors))
            for chosen in hold_out(len(tensors[0]), stopping, member)
        )
        trees = TreeMember.fit(rows, model.encoder, options, iterations)
        found = trees.predict(held_out)
        networks = combine([network_outputs(network, held_out, torch.device("cpu"))], [1.0], targets)
        assert held_out.target is not None
        labels = held_out.target.reshape(len(held_out.codes), -1).numpy()
        weights = labels[:, -1] if model.encoder.weight is not None else np.ones(len(labels))
        by_share = np.zeros((len(TREE_SHARES), len(labels)))
        for number, target in enumerate(targets):
            own = labels[:, number]
            actual: NDArray[Any] = own.astype(np.int64)
            if isinstance(target, NumericTarget):
                actual = invert_target(own.astype(np.float64), target)
            both = networks[target.column], found[target.column]
            each = np.array([row_losses(target, actual, blended(target, *both, share)) for share in TREE_SHARES])
            by_share += each / max(np.average(each[0], weights=weights), np.finfo(float).tiny)
        order = np.random.default_rng(member).permutation(len(labels))
        blocks = [block for block in np.array_split(order, BLOCKS) if weights[block].any()]
        losses += [list(np.average(by_share[:, block], axis=1, weights=weights[block])) for block in blocks]
    return best_share(TREE_SHARES, np.array(losses), 0)


def best_share(shares: tuple[float, ...], losses: NDArray[np.float64], neutral: int) -> float:
    """The share of the lowest mean loss [blocks, shares], where differences to the ``neutral`` one count two standard
    errors more, which chance may give."""
    differences = losses - losses[:, [neutral]]
    errors = differences.std(axis=0, ddof=1) / math.sqrt(len(losses)) if len(losses) > 1 else 0.0
    return shares[int((differences.mean(axis=0) + 2.0 * errors).argmin())]


def _inner_predictions(
    bundle: ModelBundle, learned: TableArrays | MappedRows, training: TableTraining
) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Classes and probabilities, by target, of the rows that the members held out of their trainings."""
    assert training.early_stopping is not None
    model = load_model(bundle)
    codes, values, labels = learned.arrays().labelled(model.encoder)
    found: dict[str, list[tuple[NDArray[np.int64], NDArray[np.float64]]]] = {}
    for member, network in enumerate(model.networks):
        _, rows = hold_out(len(codes), training.early_stopping, member)
        outputs = network_outputs(network, TableArrays(codes[rows], values[rows], None), torch.device("cpu"))
        predicted = combine([outputs], [1.0], model.encoder.targets)
        actual = labels[rows].reshape(len(rows), -1).numpy()
        for number, target in enumerate(model.encoder.targets):
            found.setdefault(target.column, []).append((actual[:, number].astype(np.int64), predicted[target.column]))
    return {
        name: (np.concatenate([actual for actual, _ in parts]), np.concatenate([each for _, each in parts]))
        for name, parts in found.items()
    }


def _with_quantiles(encoder: Encoder, training: TableTraining) -> Encoder:
    """The encoder with the quantiles that the networks will predict; the stored model has this one."""
    if training.loss != "quantile":
        return encoder
    quantiles = {"quantiles": training.quantiles}
    targets = (
        each.model_copy(update=quantiles) if isinstance(each, NumericTarget) else each for each in encoder.targets
    )
    return encoder.model_copy(update={"targets": tuple(targets)})


def _loss_of(encoder: Encoder, training: TableTraining) -> Loss:
    return make_loss(encoder.targets, training, weighted=encoder.weight is not None)


@dataclass(frozen=True)
class TableNetworkSpec:
    """Rows and settings of the networks of an ensemble.

    Attributes:
        held_out: rows to measure them on at the end of each epoch; there may be none.
        actual: values of each target in these rows, in its own units.
        penalties: of the linear part for each target, where there is one.
    """

    rows: TableArrays | MappedRows
    held_out: TableArrays | MappedRows
    actual: list[NDArray[Any]]
    encoder: Encoder
    training: TableTraining
    config: dict[str, Any]
    penalties: tuple[float, ...] = ()

    def build(self, seed: int) -> EmbeddingNetwork:
        """The network of a seed; a linear part is fitted to the rows that it learns from."""
        network = build_network(self.config, seed=seed)
        if network.linear is not None:
            rows = np.arange(len(self.rows.arrays().codes))
            if self.training.early_stopping is not None:
                member = self.training.seeds.index(seed)
                rows = hold_out(len(rows), self.training.early_stopping, member)[0].numpy()
            penalties = iter(self.penalties)
            models = [fit_linear_model(*given, next(penalties)) for given in self._linear_inputs(rows)]
            targets = zip(models, self.encoder.targets, strict=True)
            network.set_linear_part(
                [model.repeated(target.width // len(model.intercepts)) for model, target in targets]
            )
        return network

    def choose_penalties(self) -> tuple[float, ...]:
        """Penalty of the linear part for each target, by inner rows."""
        rows = np.arange(len(self.rows.arrays().codes))
        return tuple(choose_penalty(*given, LinearOptions()) for given in self._linear_inputs(rows))

    def _linear_inputs(self, rows: NDArray[np.int64]) -> Iterator[LinearInputs]:
        """What a linear model of each target is fitted to, on ``rows`` or some of them."""
        chosen = some_rows(rows)
        codes, values, labels = (array[chosen].numpy() for array in self.rows.arrays().labelled(self.encoder))
        labels = labels.reshape(len(chosen), -1)
        weights = labels[:, -1] if self.encoder.weight is not None else None
        for number, target in enumerate(self.encoder.targets):
            yield codes, values, labels[:, number], target, self.encoder.cardinalities, weights

    def batches(self, network: nn.Module, accelerator: Accelerator) -> TableBatches:
        """Batches of all rows, those held out for early stopping included."""
        return TableBatches(
            self.rows.arrays().labelled(self.encoder),
            _loss_of(self.encoder, self.training),
            batch_size=self.training.batch_size,
            device=accelerator.device,
            read=self.rows.reader(),
            shard=accelerator.shard,
        )

    def fit(self, network: nn.Module, **settings: Any) -> FitResult:
        """Train it; ``settings`` are those of :func:`embedline.training.train.fit`."""
        tensors, loss = self.rows.arrays().labelled(self.encoder), _loss_of(self.encoder, self.training)
        if self.encoder.weight is not None and isinstance(self.training.early_stopping, HeldOutStopping):
            split = hold_out(len(tensors[-1]), self.training.early_stopping, settings.get("position", 0))
            if not all(tensors[-1][rows, -1].any() for rows in split):
                raise DataError(
                    "training.early_stopping divides the rows so that all of one share have the weight 0 in "
                    f"{self.encoder.weight.column!r} (columns.weight): take such rows out, or set another fraction"
                )
        return fit(network, tensors, loss, self.training, read=self.rows.reader(), **settings)

    def evaluator(self, accelerator: Accelerator) -> Evaluate | None:
        """Metrics of the held-out rows by name, after the target's where there are several; None without rows."""
        arrays, targets = self.held_out.arrays(), self.encoder.targets
        if not len(arrays.codes):
            return None

        def evaluate(network: nn.Module) -> dict[str, float]:
            network.eval()
            predicted = combine([network_outputs(network, arrays, accelerator.device)], [1.0], targets)
            return {
                prefix_of(target, targets) + name: value
                for target, actual in zip(targets, self.actual, strict=True)
                for name, value in epoch_metrics(target, actual, predicted[target.column]).items()
            }

        return evaluate


def hidden_share(spec: TableNetworkSpec, weights: dict[str, Tensor]) -> float:
    """Share of the hidden layers, the rest being the linear model's, by the loss on the rows that were held out.

    The loss of each share less the linear model's own counts with two standard errors added, over blocks of these rows:
    early stopping has chosen the networks by the same rows, so that what they gain by chance looks like a gain.

    Args:
        weights: of the trained members; each is measured on the rows that it did not learn from.
    """
    assert spec.training.early_stopping is not None
    tensors, loss = spec.rows.arrays().labelled(spec.encoder), _loss_of(spec.encoder, spec.training)
    losses: list[list[float]] = []
    for member, seed in enumerate(spec.training.seeds):
        network = build_network(spec.config, seed=seed)
        prefix = f"{member}."
        network.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
        rows = hold_out(len(tensors[-1]), spec.training.early_stopping, member)[1]
        for block in rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))].chunk(BLOCKS):
            measure = row_monitor(tensors, loss, torch.device("cpu"), block)
            losses.append([])
            for share in SHARES:
                network.share.fill_(share)
                losses[-1].append(measure(network))
    return best_share(SHARES, np.array(losses), -1)


def range_test(
    encoded: nw.DataFrame[Any],
    encoder: Encoder,
    network: NetworkOptions,
    training: TableTraining,
    finder: FinderOptions,
) -> lr_finder.RangeTest:
    """Learning-rate range test on the training rows with the first seed's network."""
    accelerator, encoder = make_accelerator(training), _with_quantiles(encoder, training)
    with rows_of(encoded, encoder, training) as store:
        learned = store.rows(TRAIN)
        tensors, loss = learned.arrays().labelled(encoder), _loss_of(encoder, training)
        if not network.layers or not training.epochs:
            network, training = follow_table(
                network, training, encoder.code_columns, encoder.cardinalities, len(tensors[-1])
            )
        seed = training.seeds[0]
        built = build_network(network_config(encoder, network, tensors[1].numpy()), seed=seed)
        batches = lr_finder.RandomRows(
            tensors, loss, batch_size=training.batch_size, device=accelerator.device, read=learned.reader()
        )
        test = in_threads(
            training.threads,
            lambda: lr_finder.range_test(built, batches, training, finder, accelerator=accelerator, seed=seed),
        )
    test.log(training.lr)
    return test
