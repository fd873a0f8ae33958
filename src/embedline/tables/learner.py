"""Train the network (or several, over seeds), store it as a bundle, and predict from the bundle alone."""

import math
import threading
from collections.abc import Callable
from typing import Any

import narwhals as nw
import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from embedline.errors import DataError
from embedline.tables.arrays import TableArrays, invert_target, part_of, to_arrays
from embedline.tables.columns import EVALUATE, TRAIN
from embedline.tables.encoder import Encoder
from embedline.tables.network import Y_RANGE_MARGIN, EmbeddingNetwork, embedding_sizes
from embedline.tables.options import NetworkOptions
from embedline.training import checkpoints
from embedline.training.bundle import ModelBundle, library_versions
from embedline.training.device import device_name, make_accelerator
from embedline.training.dropout import seed_dropout
from embedline.training.ensemble import count_workers, in_threads, seconds_side_by_side, train_side_by_side
from embedline.training.loop import Fitted, fit
from embedline.training.lr_finder import RangeTest, find_learning_rate
from embedline.training.metrics import regression_metrics
from embedline.training.options import FinderOptions, TrainingOptions
from embedline.training.state import Record
from embedline.training.tasks import Loss

KIND = "tabular"
PREDICT_ROWS = 16_384  # rows of one forward pass when predicting: bounds memory, large enough to be quick

LOSSES: dict[str, Loss] = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "huber": F.smooth_l1_loss,
}
RELATIVE_CLIP = 0.5  # relative errors beyond this count linearly: a handful of rows would else steer the training


def network_config(encoder: Encoder, options: NetworkOptions) -> dict[str, Any]:
    """Arguments of :class:`EmbeddingNetwork` for a fitted encoder; plain JSON values."""
    target = encoder.target
    y_range = options.y_range
    if y_range == "auto" and target.maximum <= 0.0:
        raise DataError(
            f"network.y_range 'auto' ends at {Y_RANGE_MARGIN} times the largest training target, which is "
            f"{target.maximum:.4g} ({target.column!r}, transform {target.transform!r}): give the range as two numbers"
        )
    if y_range == "auto":
        # DIFF(fastai): the lesson takes the largest target of training and validation rows together.
        y_range = (0.0, Y_RANGE_MARGIN * target.maximum)
    return {
        "cardinalities": list(encoder.cardinalities),
        "sizes": list(embedding_sizes(encoder.code_columns, encoder.cardinalities, options)),
        "n_continuous": len(encoder.value_columns),
        "continuous_batch_norm": options.continuous_batch_norm,
        "layers": list(options.layers),
        "dropouts": list(options.dropouts),
        "embedding_dropout": options.embedding_dropout,
        "batch_norm": options.batch_norm,
        "output_mean": target.mean,
        "output_scale": target.std,
        "y_range": list(y_range) if y_range is not None else None,
    }


def build_network(config: dict[str, Any], *, seed: int) -> EmbeddingNetwork:
    """Network of :func:`network_config`; weights and dropout masks follow ``seed``, global state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = EmbeddingNetwork(**config)
    seed_dropout(network, seed)
    return network


def make_loss(name: str, encoder: Encoder) -> Loss:
    """Loss on outputs and targets in transformed units, scaled by the target's deviation.

    The scale lets learning rates carry over from one table to the next. ``relative`` is the squared relative error
    ``(exp(output - target) - 1)^2`` of a target learned as a logarithm, what RMSPE averages, clipped as Huber's loss.

    Raises:
        DataError: if ``relative`` is asked for a target that is not learned as a logarithm.
    """
    scale = encoder.target.std
    if name == "relative":
        if encoder.target.transform != "log":
            raise DataError("training.loss 'relative' needs encoding.target_transform: log")

        def relative(output: Tensor, target: Tensor) -> Tensor:
            difference = output - target
            # Beyond e the exponential goes on as its tangent: a clamp alone would leave such rows without a gradient.
            near = difference.clamp(max=1.0)
            error = (torch.expm1(near) + math.e * (difference - near)) / scale
            return 2.0 * F.huber_loss(error, torch.zeros_like(error), delta=RELATIVE_CLIP / scale)

        return relative
    loss = LOSSES[name]
    return lambda output, target: loss(output / scale, target / scale)


def train_network(
    encoded: nw.DataFrame[Any],
    encoder: Encoder,
    network: NetworkOptions,
    training: TrainingOptions,
) -> tuple[ModelBundle, list[Record]]:
    """Train one network for each of ``training.seeds`` on the rows of the part ``train``.

    Returns:
        The bundle, and the history: a record every few steps with ``member``, ``step``, ``epoch``, ``lr`` and
        ``train_loss``; the last of each epoch also has the figures on the part ``evaluate`` where there is one. The
        stored network is that of the last epoch, whatever these figures say.
    """
    arrays = to_arrays(part_of(encoded, TRAIN), encoder)
    if arrays.target is None:
        raise DataError(f"the training rows have no target {encoder.target.column!r}")
    tensors = (*arrays.inputs, arrays.target)
    held_out = part_of(encoded, EVALUATE)
    accelerator = make_accelerator(training)
    evaluate = _evaluator(held_out, encoder, accelerator) if len(held_out) else None
    config = network_config(encoder, network)
    loss = make_loss(training.loss, encoder)

    networks = [build_network(config, seed=seed) for seed in training.seeds]
    kept = [checkpoints.current(f"member{member}") for member in range(len(networks))]
    workers = count_workers(len(networks), training.threads, accelerator.device)

    def train_member(member: int, built: nn.Module, stop: threading.Event) -> Fitted:
        return fit(
            built,
            tensors,
            loss,
            training,
            accelerator=accelerator,
            seed=training.seeds[member],
            evaluate=evaluate,
            label=f"member{member}." if len(training.seeds) > 1 else "",
            position=member,
            checkpoint=kept[member],
            stop=stop,
            alone=workers == 1,
        )

    runs = train_side_by_side(train_member, networks, workers=workers, threads=training.threads)
    metrics = {
        "rows": len(arrays.target),
        "epochs": training.epochs,
        "members": len(runs),
        "workers": workers,
        "seconds": seconds_side_by_side([run.seconds for run in runs], workers),
        "rows_per_second": workers * float(np.mean([run.rows_per_second for run in runs])),
        "device": device_name(accelerator.device),
        "precision": accelerator.mixed_precision,
    }
    states = enumerate(run.network.state_dict() for run in runs)
    weights = {f"{member}.{name}": tensor for member, state in states for name, tensor in state.items()}
    history = [{"member": member, **record} for member, run in enumerate(runs) for record in run.history]
    bundle = ModelBundle(KIND, config, encoder.model_dump(mode="json"), weights, metrics, library_versions())
    return bundle, history


def range_test(
    encoded: nw.DataFrame[Any],
    encoder: Encoder,
    network: NetworkOptions,
    training: TrainingOptions,
    finder: FinderOptions,
) -> RangeTest:
    """Learning-rate range test on the training rows with the first seed's network."""
    arrays = to_arrays(part_of(encoded, TRAIN), encoder)
    if arrays.target is None:
        raise DataError(f"the training rows have no target {encoder.target.column!r}")
    tensors, seed = (*arrays.inputs, arrays.target), training.seeds[0]
    return in_threads(
        training.threads,
        lambda: find_learning_rate(
            build_network(network_config(encoder, network), seed=seed),
            tensors,
            make_loss(training.loss, encoder),
            training,
            finder,
            accelerator=make_accelerator(training),
            seed=seed,
        ),
    )


def predict(encoded: nw.DataFrame[Any], bundle: ModelBundle) -> NDArray[np.float64]:
    """Predictions float64 [N] in the target's own units for an encoded frame, from the bundle alone.

    The members' outputs are averaged in the transformed units: a geometric mean for a target learned as a logarithm.
    """
    if bundle.kind != KIND:
        raise DataError(f"the model bundle is of the kind {bundle.kind!r}, not {KIND!r}")
    encoder = Encoder.model_validate(bundle.encoder)
    arrays = to_arrays(encoded, encoder)
    outputs = []
    for member in range(int(bundle.metrics["members"])):
        network = build_network(bundle.config, seed=0)
        network.load_state_dict(bundle.member(member))
        outputs.append(_forward(network.eval(), arrays, torch.device("cpu")))
    return invert_target(np.mean(outputs, axis=0), encoder.target)


def _forward(network: nn.Module, arrays: TableArrays, device: torch.device) -> NDArray[np.float32]:
    """Outputs float32 [N] of a network in evaluation mode, in full precision."""
    outputs = []
    with torch.inference_mode():
        for codes, values in zip(arrays.codes.split(PREDICT_ROWS), arrays.continuous.split(PREDICT_ROWS), strict=True):
            outputs.append(network(codes.to(device), values.to(device)).cpu())
    return torch.cat(outputs).numpy() if outputs else np.empty(0, dtype=np.float32)


def _evaluator(
    held_out: nw.DataFrame[Any], encoder: Encoder, accelerator: Accelerator
) -> Callable[[nn.Module], dict[str, float]]:
    arrays = to_arrays(held_out, encoder)
    actual = held_out.get_column(encoder.target.column).to_numpy()

    def evaluate(network: nn.Module) -> dict[str, float]:
        network.eval()
        predicted = invert_target(_forward(network, arrays, accelerator.device), encoder.target)
        return regression_metrics(actual, predicted, logarithmic=encoder.target.transform == "log")

    return evaluate
