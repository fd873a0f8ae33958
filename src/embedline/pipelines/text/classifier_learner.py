"""Fine-tune a language model's encoder into a classifier, store it as a bundle, and predict from the bundle alone."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from embedline.errors import DataError
from embedline.pipelines.text.classifier import ClassifierEnsemble, TextClassifier
from embedline.pipelines.text.classifier_batches import by_length, pad
from embedline.pipelines.text.evaluation import class_codes, prediction_frame
from embedline.pipelines.text.fine_tuning import (
    ClassifierData,
    build_classifier,
    choose_stage_precision,
    train_stages,
    unfrozen_groups,
)
from embedline.pipelines.text.language_learner import NO_VALIDATION, own_threads, training_figures, with_seed
from embedline.pipelines.text.lm_batches import Corpus
from embedline.pipelines.text.options import ClassifierOptions, ClassifierTraining
from embedline.pipelines.text.splits import TEST, VALIDATION
from embedline.pipelines.text.tokenizer import TokenOptions
from embedline.pipelines.text.vocabulary import Vocabulary, load_vocabulary
from embedline.training import distributed
from embedline.training.checkpoint import Record
from embedline.training.device import Accelerator, make_accelerator
from embedline.training.ensemble import warn_of_few_steps
from embedline.training.lr_finder import RangeTest, range_test
from embedline.training.model_file import ModelBundle, library_versions
from embedline.training.options import FinderOptions
from embedline.training.train import Evaluate, FitResult

KIND = "text_classifier"
PREDICT_DOCUMENTS = 64  # of a forward pass when predicting

Network = TextClassifier | ClassifierEnsemble


def train_classifier(
    ids: pl.DataFrame,
    vocabulary: Vocabulary,
    classes: Sequence[str],
    language_model: ModelBundle,
    network: ClassifierOptions,
    training: ClassifierTraining,
) -> tuple[ModelBundle, list[Record]]:
    """Fine-tune on the documents of the split ``train``, stage by stage; one classifier for each seed, in turn.

    Returns:
        The bundle of the last stage's last epoch (with early stopping: its best epoch), and the history: records as in
        :func:`.language_learner.train_language_model`, with ``member`` and ``stage``; the last record of each epoch
        has the metrics of the split ``validation``.

    Raises:
        DataError: if a label is not among the classes, a class has no training document, or early stopping is set and
            there is no split ``validation``.
    """
    material = ClassifierData.of(ids, vocabulary, classes, language_model, network)
    held_out = ids.filter(pl.col("split") == VALIDATION)
    if training.early_stopping and held_out.is_empty():
        raise DataError(NO_VALIDATION.format("classifier_training"))
    measured = (Corpus.of(held_out), torch.from_numpy(class_codes(held_out, classes))) if len(held_out) else None
    members, metrics = distributed.run(
        _train_members, material, training, own_threads(training), measured, options=training
    )
    warn_of_few_steps(members[0], training.batch_size, "classifier_training")
    history = [
        {"member": member, "stage": stage, **record}
        for member, runs in enumerate(members)
        for stage, run in enumerate(runs)
        for record in run.history
    ]
    figures = {
        "documents": len(material.corpus),
        "tokens": len(material.corpus.ids),
        "members": len(members),
        "member_weights": list(training.member_weights),
        **metrics,
        "language_model": language_model.metrics,
    }
    encoding = {
        "vocabulary": vocabulary.model_dump(mode="json"),
        "tokens": material.tokens.model_dump(mode="json"),
        "classes": list(classes),
    }
    states = enumerate(runs[-1].network.state_dict() for runs in members)
    weights = {f"{member}.{name}": tensor for member, state in states for name, tensor in state.items()}
    return ModelBundle(KIND, material.config, encoding, weights, figures, library_versions()), history


def _train_members(
    material: ClassifierData,
    training: ClassifierTraining,
    threads: int,
    measured: tuple[Corpus, Tensor] | None,
    stop: threading.Event,
) -> tuple[list[list[FitResult]], dict[str, Any]]:
    """The stages of each member, and what the bundle says of the training and of the split ``validation``."""
    accelerator = choose_stage_precision(material, training, threads, make_accelerator(training), stop)
    evaluate = _evaluator(*measured, accelerator) if measured else None
    members = train_stages(material, training, threads, accelerator, evaluate, stop)
    figures = _validation_figures(members, training.member_weights, evaluate)
    return members, {**training_figures(_together(members), accelerator), **figures}


def _together(members: Sequence[Sequence[FitResult]]) -> FitResult:
    """Epochs and seconds of all stages of all members, and the mean speed of their last ones."""
    runs = [run for stages in members for run in stages]
    return FitResult(
        members[0][-1].network,
        rows_per_second=float(np.mean([stages[-1].rows_per_second for stages in members])),
        seconds=sum(run.seconds for run in runs),
        epochs=sum(run.epochs for run in runs),
    )


def _validation_figures(
    members: Sequence[Sequence[FitResult]], weights: Sequence[float], evaluate: Evaluate | None
) -> dict[str, float]:
    """Figures of the part ``validation``, of all members together; empty without one."""
    if evaluate is None:
        return {}
    if len(members) == 1:
        figures = members[0][-1].metrics
    else:
        figures = evaluate(ClassifierEnsemble([_classifier(stages[-1]) for stages in members], weights))
    return {"validation_loss": figures["validation_loss"], "validation_accuracy": figures["accuracy"]}


def _classifier(run: FitResult) -> TextClassifier:
    assert isinstance(run.network, TextClassifier)
    return run.network


def find_classifier_rate(
    ids: pl.DataFrame,
    vocabulary: Vocabulary,
    classes: Sequence[str],
    language_model: ModelBundle,
    network: ClassifierOptions,
    training: ClassifierTraining,
    finder: FinderOptions,
) -> RangeTest:
    """Learning-rate range test of the first stage with the first seed's network.

    Later stages start from what the ones before them have learned, which there is not yet.
    """
    material = ClassifierData.of(ids, vocabulary, classes, language_model, network)
    accelerator, stage, seed = make_accelerator(training), training.stages[0], training.seeds[0]

    def search(built: nn.Module, stop: threading.Event) -> RangeTest:
        assert isinstance(built, TextClassifier)
        options = training.of_stage(stage)
        return range_test(
            built,
            material.batches(options, accelerator),
            options,
            finder,
            accelerator=accelerator,
            seed=seed,
            groups=unfrozen_groups(built, stage, training),
            stop=stop,
        )

    return with_seed(seed, training.threads, material.build, search)


def load_classifier(bundle: ModelBundle) -> tuple[ClassifierEnsemble, Vocabulary, TokenOptions, list[str]]:
    """The classifiers, in evaluation mode, with their vocabulary, token rules and classes.

    Raises:
        DataError: if the bundle holds no text classifier.
    """
    if bundle.kind != KIND:
        raise DataError(f"the model bundle is of the kind {bundle.kind!r}, not {KIND!r}")
    # Bundles of before there were ensembles hold one network, and no number before the names of its weights.
    weights = bundle.metrics.get("member_weights")
    states = [bundle.member(member) for member in range(len(weights))] if weights else [bundle.weights]
    members = [build_classifier(bundle.config) for _ in states]
    for member, state in zip(members, states, strict=True):
        member.load_state_dict(state)
    network = ClassifierEnsemble(members, weights or [1.0])
    vocabulary = load_vocabulary(bundle.encoder["vocabulary"])
    return network.eval(), vocabulary, TokenOptions.model_validate(bundle.encoder["tokens"]), bundle.encoder["classes"]


def class_probabilities(
    network: Network,
    documents: Sequence[NDArray[np.integer]] | Corpus,
    device: torch.device | None = None,
) -> NDArray[np.float64]:
    """Probabilities float64 [D, C] of documents' ids, in full precision, on the network's device or another.

    A document without a token cannot be read: give it its opening mark.
    """
    device = device or next(network.parameters()).device
    corpus = documents if isinstance(documents, Corpus) else _corpus(documents)
    return F.softmax(_logits(network.to(device).eval(), corpus, device), dim=1).numpy()


def _corpus(documents: Sequence[NDArray[np.integer]]) -> Corpus:
    offsets = np.cumsum([0, *(len(document) for document in documents)])
    ids = np.concatenate([np.empty(0, dtype=np.int64), *documents])
    return Corpus(ids, offsets)


@torch.inference_mode()
def _logits(
    network: Network, corpus: Corpus, device: torch.device, autocast: Callable[[], Any] | None = None
) -> Tensor:
    """Logits, or logarithms of probabilities, float64 [D, C] on the CPU."""
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


def _evaluator(corpus: Corpus, targets: Tensor, accelerator: Accelerator) -> Callable[[nn.Module], dict[str, float]]:
    def evaluate(network: nn.Module) -> dict[str, float]:
        assert isinstance(network, TextClassifier | ClassifierEnsemble)
        logits = _logits(network.eval(), corpus, accelerator.device, accelerator.autocast)
        accuracy = (logits.argmax(1) == targets).double().mean()
        return {"validation_loss": F.cross_entropy(logits, targets).item(), "accuracy": accuracy.item()}

    return evaluate


def predict_split(ids: pl.DataFrame, bundle: ModelBundle, *, split: str = TEST) -> pl.DataFrame:
    """Predict the documents of a split; columns as in :func:`.evaluation.prediction_frame`."""
    network, vocabulary, _, classes = load_classifier(bundle)
    documents = ids.filter(pl.col("split") == split)
    if documents.is_empty():
        raise DataError(f"there is nothing to predict: no document is in the split {split!r}")
    corpus = Corpus.of(documents)
    if len(corpus.ids) and int(corpus.ids.max()) >= len(vocabulary):
        raise DataError(
            f"a document has the token id {int(corpus.ids.max())}, but the model knows {len(vocabulary)}: "
            "the ids were made with another model's vocabulary"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return prediction_frame(documents, class_probabilities(network, corpus, device), classes)
