"""What ``auto`` stands for: sizes, dropout rates, batches and epochs that suit the number of a corpus's tokens.

They keep a training to some minutes on two cores, with a thousand steps or two of a language model.
``tests/benchmarks/bench_small_corpora.py`` measures them.
"""

import logging
from typing import Any, TypeVar

from embedline.pipelines.text.options import (
    AUTO,
    ClassifierOptions,
    ClassifierTraining,
    LanguageModelOptions,
    LanguageModelTraining,
    Stage,
)
from embedline.training.device import resolve_device
from embedline.training.model_file import ModelBundle
from embedline.training.options import Options

logger = logging.getLogger(__name__)

Block = TypeVar("Block", bound=Options)

NUMBERS = ("epochs", "batch_size", "lr")  # for which 0 stands for `auto`
BPTT = 40
PASSES = 3e6  # tokens that a language model reads in all its epochs, about
MOST_EPOCHS = 10
STEPS = 1500  # of a language model's training, about
SMALL, LARGE = 2e6, 1e7  # training tokens
DOCUMENTS = 50_000  # of which two epochs are enough for a classifier


def choose_language_model(
    network: LanguageModelOptions,
    training: LanguageModelTraining,
    *,
    n_tokens: int,
    n_words: int,
    pretrained: ModelBundle | None = None,
) -> tuple[LanguageModelOptions, LanguageModelTraining, dict[str, Any]]:
    """Replace ``auto`` in the settings of a language model, trained on ``n_tokens`` with a vocabulary of ``n_words``.

    The sizes are those of the ``pretrained`` language models to start from, if given.

    Returns:
        The settings without ``auto``, and what was chosen by name, for the metrics; empty where nothing is ``auto``.
    """
    chosen: dict[str, Any] = {}
    if network.preset == "auto":
        sizes = next(iter(pretrained.config.values()), None) if pretrained else None
        sizes = sizes or _sizes(n_tokens)
        network = _fill(network, {**sizes, "decoder_bias": True}, chosen)
        drop_mult = network.drop_mult * (0.5 if n_tokens < LARGE else 1.0)
        network = network.model_copy(update={"preset": "dl1", "drop_mult": drop_mult})
        chosen["drop_mult"] = drop_mult
    if AUTO in (training.epochs, training.batch_size, training.lr):
        on_cpu = resolve_device(training.device).type == "cpu"
        per_epoch = min(n_tokens, training.tokens_per_epoch or n_tokens)
        epochs = training.epochs or min(MOST_EPOCHS, max(1, round(PASSES / max(1, per_epoch))))
        batch_size = _power_of_two(epochs * per_epoch / (BPTT * STEPS), 8, 64 if on_cpu else 256)
        values: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "lr": 0.01}
        if not training.epochs:
            values |= {"bptt": BPTT, "alpha": 0.0, "beta": 0.0, "clip_norm": 0.3, "weight_decay": 1e-6}
            if on_cpu and n_words > 2 * training.sampled_words:
                values["softmax"] = "sampled"
        training = _fill(training, values, chosen)
    _tell("language model", n_tokens, "tokens", chosen)
    return network, training, chosen


def choose_classifier(
    network: ClassifierOptions, training: ClassifierTraining, *, n_documents: int
) -> tuple[ClassifierOptions, ClassifierTraining, dict[str, Any]]:
    """Replace ``auto`` in the settings of a classifier of ``n_documents``; as :func:`choose_language_model`."""
    chosen: dict[str, Any] = {}
    if network.preset == "auto":
        network = network.model_copy(update={"preset": "dl1"})
    if not training.stages or training.batch_size == AUTO:
        values: dict[str, Any] = {"batch_size": _power_of_two(n_documents / 250, 8, 64)}
        if not training.stages:
            epochs = 2 if n_documents >= DOCUMENTS else 3
            head, whole = Stage(unfrozen=1, epochs=1, lr=0.02), Stage(unfrozen=None, epochs=epochs, lr=0.005)
            values |= {"stages": (head, whole), "rate_decay": 1.5, "alpha": 0.0, "beta": 0.0}
        training = _fill(training, values, chosen)
    _tell("classifier", n_documents, "documents", chosen)
    return network, training, chosen


def _sizes(n_tokens: int) -> dict[str, int]:
    """Sizes of a language model for so many training tokens."""
    if n_tokens < SMALL:
        return {"embedding_size": 100, "hidden_size": 100, "n_layers": 1}
    if n_tokens < LARGE:
        return {"embedding_size": 128, "hidden_size": 256, "n_layers": 2}
    return {"embedding_size": 200, "hidden_size": 400, "n_layers": 2}


def _fill(block: Block, values: dict[str, Any], chosen: dict[str, Any]) -> Block:
    """Set what is not given, or ``auto``, to ``values``; add it to ``chosen`` as JSON values."""
    given = {name: getattr(block, name) for name in block.model_fields_set}
    open_values: dict[str, tuple[Any, ...]] = {
        **dict.fromkeys(values, (None, ())),
        **dict.fromkeys(NUMBERS, (AUTO, None)),
    }
    unset = {name: value for name, value in values.items() if given.get(name) in open_values[name]}
    filled = block.model_copy(update=unset)
    chosen |= {name: value for name, value in filled.model_dump(mode="json").items() if name in unset}
    return filled


def _power_of_two(wanted: float, low: int, high: int) -> int:
    """The largest power of two that is at most ``wanted``, from ``low`` to ``high``."""
    return min(high, max(low, 1 << max(0, int(wanted).bit_length() - 1)))


def _tell(what: str, count: int, unit: str, chosen: dict[str, Any]) -> None:
    if chosen:
        listed = ", ".join(f"{name} {value}" for name, value in chosen.items())
        logger.info("auto, for a %s of %s %s: %s", what, f"{count:,}", unit, listed)
