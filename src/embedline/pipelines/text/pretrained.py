"""Start a language model from another one: words matched by spelling, initial weights, and fine-tuning in stages.

The other language models, one a direction of reading, are in a bundle of :data:`KIND`, without any if none is given:
``config`` has the sizes and ``encoder`` the vocabulary, both by direction, and the weights begin with ``<direction>.``.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from embedline.errors import DataError
from embedline.pipelines.text.lm_batches import LanguageModelBatches
from embedline.pipelines.text.options import SIZES, LanguageModelTraining, Stage
from embedline.pipelines.text.vocabulary import Vocabulary, load_vocabulary
from embedline.training import checkpoint
from embedline.training.model_file import ModelBundle
from embedline.training.optimizer import LayerGroup, discriminative, unfreeze
from embedline.training.train import FitResult, train

logger = logging.getLogger(__name__)

KIND = "pretrained_language_models"
LEAST_KNOWN = 0.1  # fraction of the words; below it, the other language model is of another corpus or language
EMBEDDING, BIAS = "encoder.embedding.weight", "decoder.bias"  # of a language model: a row a word


def match_words(known: Vocabulary, wanted: Vocabulary) -> Tensor:
    """Return the id int64 [V] in ``known`` of each token of ``wanted``, by spelling; -1 where there is none.

    Other token rules, another language, or under 10 % of words in common, are a DataError.
    """
    for what, key in (("token rules", "rules"), ("language", "language")):
        theirs, ours = getattr(known, key), getattr(wanted, key)
        if theirs != ours:
            raise DataError(
                f"the language model's vocabulary was made with the {what} {theirs!r}, the documents' with {ours!r}: "
                f"set tokens.{key} to {theirs!r}"
            )
    place = {token: row for row, token in enumerate(known.tokens)}
    rows = [place.get(token, -1) for token in wanted.tokens]
    words = rows[len(wanted.specials) :]  # all vocabularies of these rules have the special tokens
    shared = sum(row >= 0 for row in words) / max(1, len(words))
    if shared < LEAST_KNOWN:
        raise DataError(
            f"the language model knows {shared:.1%} of the documents' {len(words):,} words: it is of another corpus"
        )
    if shared < 1.0:
        message = "%.1f%% of %s words are unknown to the language model: mean embedding"
        logger.info(message, 100 * (1 - shared), len(words))
    return torch.tensor(rows)


def take_rows(weights: Tensor, rows: Tensor) -> Tensor:
    """Rows [V, …] of ``weights`` [K, …] by their numbers int64 [V]; for -1 the mean row (fastai's ``match_embeds``)."""
    taken = weights[rows.clamp(min=0)]
    taken[rows < 0] = weights.mean(0)
    return taken


def match_embedding(weights: Tensor, known: Vocabulary, wanted: Vocabulary) -> Tensor:
    """Convert an embedding [K, E] for the vocabulary ``known`` to one [V, E] for the vocabulary ``wanted``.

    Words that are not in ``known`` get the mean row; for the errors see :func:`match_words`.
    """
    return take_rows(weights, match_words(known, wanted))


def initial_weights(
    pretrained: ModelBundle | None, wanted: Vocabulary, config: dict[str, Any], directions: Sequence[str] = ("forward",)
) -> dict[str, dict[str, Tensor]]:
    """Initial weights of language models by direction of reading, for the directions that have a pretrained model.

    Args:
        pretrained: bundle of :data:`KIND`; None is as one without a model.
        wanted: vocabulary of the documents.
        config: of the language models to train (:func:`.language_model.language_config`), in the ``directions``.

    Returns:
        Tensors by their names in a :class:`.language_model.LanguageModel`, without the tied matrix of the decoder.
        Words that the pretrained model does not know get its mean embedding and its mean bias.

    Raises:
        DataError: the sizes differ, or a direction is pretrained that is not trained; see also :func:`match_words`.
    """
    given = pretrained.config if pretrained else {}
    if unused := [direction for direction in given if direction not in directions]:
        raise DataError(f"pretrained.{unused[0]} is given, but no language model is trained that reads {unused[0]}")
    found = {}
    for direction in given:
        assert pretrained is not None
        _require_sizes(direction, given[direction], config["encoder"])
        try:
            rows = match_words(load_vocabulary(pretrained.encoder[direction]), wanted)
        except DataError as error:
            raise DataError(f"pretrained.{direction}: {error}") from error
        prefix = f"{direction}."
        tensors = {n.removeprefix(prefix): t for n, t in pretrained.weights.items() if n.startswith(prefix)}
        tensors[EMBEDDING] = take_rows(tensors[EMBEDDING], rows)
        if bias := config["decoder_bias"]:
            before = tensors.get(BIAS)
            tensors[BIAS] = torch.zeros(len(wanted)) if before is None else take_rows(before, rows)
        found[direction] = {name: tensor for name, tensor in tensors.items() if bias or name != BIAS}
    return found


def _require_sizes(direction: str, theirs: dict[str, int], ours: dict[str, Any]) -> None:
    for name in SIZES["ulmfit"]:
        if name == "hidden_size" and theirs["n_layers"] == ours["n_layers"] == 1:
            continue  # the only layer is as wide as the embedding
        if theirs[name] != ours[name]:
            raise DataError(
                f"pretrained.{direction} is a language model of {name} {theirs[name]}, and language_model.{name} is "
                f"{ours[name]}: set language_model.{name} to {theirs[name]}"
            )


def stage_names(training: LanguageModelTraining) -> list[str]:
    """Name of each training, for its checkpoint and its reports: one without stages, else one a stage."""
    if not training.stages:
        return ["language_model"]
    return [f"language_model.stage{place}" for place in range(len(training.stages))]


def train_stages(
    network: Any,
    batches: LanguageModelBatches,
    training: LanguageModelTraining,
    names: Sequence[str],
    settings: dict[str, Any],
) -> FitResult:
    """Train in the stages of gradual unfreezing; return one result, whose history counts on from stage to stage.

    ``names`` are those of :func:`stage_names`, ``settings`` other arguments of :func:`train`, the same for all stages.
    """
    whole = FitResult(network)
    for place, stage in enumerate(training.stages or ()):
        result = train(
            network,
            batches,
            training.of_stage(stage),
            seed=training.seed + place,
            groups=unfreeze_stage(network, stage, training),
            label=f"{names[place]}.",
            checkpoint=checkpoint.current(names[place]),
            **settings,
        )
        network.load_state_dict(result.network.state_dict())  # the averaged weights, if averaging is on
        step = whole.history[-1]["step"] if whole.history else 0
        for record in result.history:
            counted = {"step": step + record["step"], "epoch": whole.epochs + record["epoch"], "stage": place}
            whole.history.append({**record, **counted})
        whole.best_epoch = whole.epochs + result.best_epoch if result.best_epoch else None
        whole.epochs, whole.seconds = whole.epochs + result.epochs, whole.seconds + result.seconds
        whole.rows_per_second = result.rows_per_second
    return whole


def unfreeze_stage(network: Any, stage: Stage, training: LanguageModelTraining) -> list[LayerGroup]:
    """Freeze the other layer groups of a stage; return all groups with their learning rates."""
    unfreeze(network, network.groups(), stage.unfrozen)
    return discriminative(network.groups(), training.rate_decay)
