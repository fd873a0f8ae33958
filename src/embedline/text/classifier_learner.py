"""Fine-tune a language model's encoder into a classifier, store it as a bundle, and predict from the bundle alone."""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from embedline.errors import DataError
from embedline.text.batches import DocumentTask, by_length, pad
from embedline.text.classifier import TextClassifier
from embedline.text.language_learner import load_language_model, training_figures, with_seed
from embedline.text.options import ClassifierOptions, ClassifierTraining, EncoderOptions
from embedline.text.parts import TEST, TRAIN, VALIDATION
from embedline.text.report import class_codes, prediction_frame
from embedline.text.streams import Corpus
from embedline.text.tokens import TokenOptions
from embedline.text.vocabulary import Vocabulary, load_vocabulary
from embedline.training import checkpoints
from embedline.training.bundle import ModelBundle, library_versions
from embedline.training.device import make_accelerator
from embedline.training.groups import discriminative
from embedline.training.loop import Fitted, train
from embedline.training.state import Record

KIND = "text_classifier"
PREDICT_DOCUMENTS = 64  # of a forward pass when predicting

logger = logging.getLogger(__name__)


def match_embedding(weights: Tensor, known: Vocabulary, wanted: Vocabulary) -> Tensor:
    """Rows [V, E] for the words of ``wanted`` out of a table [K, E] for those of ``known``.

    Words that ``known`` lacks get the mean row (Howard & Ruder's code and fastai's ``match_embeds`` do the same).

    Raises:
        DataError: if the two were made by different token rules, or share hardly a word.
    """
    if known.rules != wanted.rules:
        raise DataError(
            f"the language model's vocabulary was made by the token rules {known.rules!r}, that of the documents by "
            f"{wanted.rules!r}: set tokens.rules to the former"
        )
    place = {token: row for row, token in enumerate(known.tokens)}
    rows = [place.get(token, -1) for token in wanted.tokens]
    words = rows[len(wanted.specials) :]  # every vocabulary of these rules has the special tokens
    shared = sum(row >= 0 for row in words) / max(1, len(words))
    if shared < 0.1:
        raise DataError(
            f"the language model knows {shared:.1%} of the documents' {len(words):,} words: it is of another corpus"
        )
    if shared < 1.0:
        logger.info(
            "%.1f%% of %s words are unknown to the language model: mean embedding", 100 * (1 - shared), len(words)
        )
    index = torch.tensor(rows)
    matched = weights[index.clamp(min=0)]
    matched[index < 0] = weights.mean(0)
    return matched


def build_classifier(config: dict[str, Any]) -> TextClassifier:
    """Network of a bundle's ``config``."""
    return TextClassifier(
        config["vocabulary_size"],
        EncoderOptions.model_validate(config["encoder"]),
        layers=tuple(config["layers"]),
        head_rates=tuple(config["head_rates"]),
        n_classes=config["n_classes"],
        bptt=config["bptt"],
        max_tokens=config["max_tokens"],
    )


def classifier_config(
    bundle: ModelBundle, vocabulary: Vocabulary, options: ClassifierOptions, n_classes: int
) -> dict[str, Any]:
    """Arguments of :class:`TextClassifier` upon the language model of ``bundle``; plain JSON values."""
    return {
        "vocabulary_size": len(vocabulary),
        "encoder": {**bundle.config["encoder"], "rates": options.rates().model_dump()},
        "layers": list(options.layers),
        "head_rates": list(options.head_rates()),
        "n_classes": n_classes,
        "bptt": options.bptt,
        "max_tokens": options.max_tokens,
    }


def train_classifier(
    ids: pl.DataFrame,
    vocabulary: Vocabulary,
    classes: Sequence[str],
    language_model: ModelBundle,
    network: ClassifierOptions,
    training: ClassifierTraining,
) -> tuple[ModelBundle, list[Record]]:
    """Fine-tune on the documents of the part ``train``, stage by stage.

    Returns:
        The bundle of the last epoch of the last stage, and the history: records as of
        :func:`embedline.text.language_learner.train_language_model`, with the ``stage``; figures of the part
        ``validation`` at the end of each epoch.

    Raises:
        DataError: if a label is not among the classes, or a class has no document to learn from.
    """
    if len(classes) < 2:
        raise DataError(f"a classifier needs two classes or more, got {list(classes)}")
    documents = ids.filter(pl.col("part") == TRAIN)
    targets = class_codes(documents, classes)
    if missing := [name for place, name in enumerate(classes) if not (targets == place).any()]:
        raise DataError(f"the part 'train' has no document of the class {missing[0]!r}")
    encoder, known, tokens = load_language_model(language_model)
    config = classifier_config(language_model, vocabulary, network, len(classes))
    accelerator = make_accelerator(training)
    held_out = ids.filter(pl.col("part") == VALIDATION)
    evaluate = _evaluator(held_out, classes, accelerator) if len(held_out) else None
    kept = [checkpoints.current(f"stage{stage}") for stage in range(len(training.stages))]
    corpus = Corpus.of(documents)
    history: list[Record] = []

    def build() -> TextClassifier:
        built = build_classifier(config)
        weights = encoder.encoder.state_dict()
        weights["embedding.weight"] = match_embedding(weights["embedding.weight"], known, vocabulary)
        built.encoder.load_state_dict(weights)
        return built

    def fit(built: nn.Module, stop: threading.Event) -> Fitted:
        assert isinstance(built, TextClassifier)
        seconds, speed = 0.0, 0.0
        for place, stage in enumerate(training.stages):
            options = training.of_stage(stage)
            built.unfreeze(stage.unfrozen)
            run = train(
                built,
                DocumentTask(corpus, targets, options, device=accelerator.device),
                options,
                accelerator=accelerator,
                seed=training.seed + place,
                groups=discriminative(built.groups(), training.rate_decay),
                evaluate=evaluate,
                label=f"stage{place}.",
                checkpoint=kept[place],
                stop=stop,
            )
            built.load_state_dict(run.network.state_dict())  # the averaged weights, where they are asked for
            history.extend({"stage": place, **record} for record in run.history)
            seconds, speed = seconds + run.seconds, run.rows_per_second
        return Fitted(built, history, speed, seconds)

    run = with_seed(training.seed, training.threads, build, fit)
    figures = {
        "documents": len(documents),
        "tokens": len(corpus.ids),
        **training_figures(run, sum(stage.epochs for stage in training.stages), accelerator),
        **_last_figures(history),
        "language_model": language_model.metrics,
    }
    encoding = {
        "vocabulary": vocabulary.model_dump(mode="json"),
        "tokens": tokens.model_dump(mode="json"),
        "classes": list(classes),
    }
    bundle = ModelBundle(KIND, config, encoding, dict(run.network.state_dict()), figures, library_versions())
    return bundle, history


def _last_figures(history: list[Record]) -> dict[str, float]:
    """Figures of the part ``validation`` at the end of the training; empty without one."""
    last = history[-1]
    names = {"validation_loss": "validation_loss", "accuracy": "validation_accuracy"}
    return {ours: last[name] for name, ours in names.items() if name in last}


def load_classifier(bundle: ModelBundle) -> tuple[TextClassifier, Vocabulary, TokenOptions, list[str]]:
    """The network, in evaluation mode, with its vocabulary, token rules and classes.

    Raises:
        DataError: if the bundle holds no text classifier.
    """
    if bundle.kind != KIND:
        raise DataError(f"the model bundle is of the kind {bundle.kind!r}, not {KIND!r}")
    network = build_classifier(bundle.config)
    network.load_state_dict(bundle.weights)
    vocabulary = load_vocabulary(bundle.encoder["vocabulary"])
    return network.eval(), vocabulary, TokenOptions.model_validate(bundle.encoder["tokens"]), bundle.encoder["classes"]


def class_probabilities(
    network: TextClassifier,
    documents: Sequence[NDArray[np.integer]] | Corpus,
    device: torch.device | None = None,
) -> NDArray[np.float64]:
    """Probabilities float64 [D, C] of documents' ids, in full precision, on the network's device or another.

    A document without a token cannot be read: give it its opening mark.
    """
    device = device or next(network.parameters()).device
    corpus = documents if isinstance(documents, Corpus) else _together(documents)
    return F.softmax(_logits(network.to(device).eval(), corpus, device), dim=1).numpy()


def _together(documents: Sequence[NDArray[np.integer]]) -> Corpus:
    offsets = np.cumsum([0, *(len(document) for document in documents)])
    ids = np.concatenate([np.empty(0, dtype=np.int64), *documents])
    return Corpus(ids, offsets)


@torch.inference_mode()
def _logits(
    network: TextClassifier, corpus: Corpus, device: torch.device, autocast: Callable[[], Any] | None = None
) -> Tensor:
    """Logits float64 [D, C] on the CPU."""
    if len(corpus) and corpus.lengths.min() == 0:
        raise ValueError("a document has no token")
    logits = torch.empty(len(corpus), network.n_classes, dtype=torch.float64)
    for rows in by_length(corpus.lengths, PREDICT_DOCUMENTS):
        ids, lengths = pad([corpus[row] for row in rows], device)
        if autocast is None:
            found = network(ids, lengths)
        else:
            with autocast():
                found = network(ids, lengths)
        logits[torch.from_numpy(rows)] = found.double().cpu()
    return logits


def _evaluator(
    held_out: pl.DataFrame, classes: Sequence[str], accelerator: Accelerator
) -> Callable[[nn.Module], dict[str, float]]:
    corpus, targets = Corpus.of(held_out), torch.from_numpy(class_codes(held_out, classes))

    def evaluate(network: nn.Module) -> dict[str, float]:
        assert isinstance(network, TextClassifier)
        logits = _logits(network.eval(), corpus, accelerator.device, accelerator.autocast)
        accuracy = (logits.argmax(1) == targets).double().mean()
        return {"validation_loss": F.cross_entropy(logits, targets).item(), "accuracy": accuracy.item()}

    return evaluate


def predict_part(ids: pl.DataFrame, bundle: ModelBundle, *, part: str = TEST) -> pl.DataFrame:
    """Predictions for the documents of a part, as :func:`embedline.text.report.prediction_frame` lays them out."""
    network, vocabulary, _, classes = load_classifier(bundle)
    documents = ids.filter(pl.col("part") == part)
    if documents.is_empty():
        raise DataError(f"there is nothing to predict: no document has the part {part!r}")
    corpus = Corpus.of(documents)
    if len(corpus.ids) and int(corpus.ids.max()) >= len(vocabulary):
        raise DataError(
            f"a document has the token id {int(corpus.ids.max())}, but the model knows {len(vocabulary)}: "
            "the ids were made with another model's vocabulary"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return prediction_frame(documents, class_probabilities(network, corpus, device), classes)
