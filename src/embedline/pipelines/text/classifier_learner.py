"""Train a text classifier, convert it to a bundle and back, and predict with it."""

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
from embedline.pipelines.text.language_learner import NO_VALIDATION, own_threads, training_metrics, with_seed
from embedline.pipelines.text.lm_batches import Corpus
from embedline.pipelines.text.options import ClassifierOptions, ClassifierTraining
from embedline.pipelines.text.splits import TEST, VALIDATION
from embedline.pipelines.text.tokenizer import TokenOptions
from embedline.pipelines.text.vocabulary import Vocabulary, load_vocabulary
from embedline.training import distributed
from embedline.training.checkpoint import Record
from embedline.training.device import Accelerator, make_accelerator
from embedline.training.ensemble import member_tensors, member_weights, warn_of_few_steps
from embedline.training.lr_finder import RangeTest, range_test
from embedline.training.model_file import ModelBundle
from embedline.training.options import FinderOptions
from embedline.training.train import Evaluate, FitResult

KIND = "text_classifier"
PREDICT_DOCUMENTS = 64  # documents of a forward pass in prediction

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
    data = ClassifierData.from_documents(ids, vocabulary, classes, language_model, network)
    held_out = ids.filter(pl.col("split") == VALIDATION)
    if training.early_stopping and held_out.is_empty():
        raise DataError(NO_VALIDATION.format("classifier_training"))
    validation = (Corpus.of(held_out), torch.from_numpy(class_codes(held_out, classes))) if len(held_out) else None
    members, training_metrics = distributed.run(
        _train_members, data, training, own_threads(training), validation, options=training
    )
    warn_of_few_steps(members[0], training.batch_size, "classifier_training")
    history = [
        {"member": member, "stage": stage, **record}
        for member, results in enumerate(members)
        for stage, result in enumerate(results)
        for record in result.history
    ]
    metrics = {
        "documents": len(data.corpus),
        "tokens": len(data.corpus.ids),
        "members": len(members),
        "member_weights": member_weights(training),
        **training_metrics,
        "language_model": language_model.metrics,
    }
    encoding = {
        "vocabulary": vocabulary.model_dump(mode="json"),
        "tokens": data.tokens.model_dump(mode="json"),
        "classes": list(classes),
    }
    weights = member_tensors([results[-1].network for results in members])
    return ModelBundle(KIND, data.config, encoding, weights, metrics), history


def _train_members(
    data: ClassifierData,
    training: ClassifierTraining,
    threads: int,
    validation: tuple[Corpus, Tensor] | None,
    stop: threading.Event,
) -> tuple[list[list[FitResult]], dict[str, Any]]:
    """Train the members in one process; return the results of their stages, and metrics for the bundle."""
    accelerator = choose_stage_precision(data, training, threads, make_accelerator(training), stop)
    evaluate = _evaluator(*validation, accelerator) if validation else None
    members = train_stages(data, training, threads, accelerator, evaluate, stop)
    metrics = _validation_metrics(members, member_weights(training), evaluate)
    return members, {**training_metrics(_combine(members), accelerator), **metrics}


def _combine(members: Sequence[Sequence[FitResult]]) -> FitResult:
    """Add up the epochs and seconds of all stages of all members; take the mean speed of the last stages."""
    results = [result for stages in members for result in stages]
    return FitResult(
        members[0][-1].network,
        rows_per_second=float(np.mean([stages[-1].rows_per_second for stages in members])),
        seconds=sum(result.seconds for result in results),
        epochs=sum(result.epochs for result in results),
    )


def _validation_metrics(
    members: Sequence[Sequence[FitResult]], weights: Sequence[float], evaluate: Evaluate | None
) -> dict[str, float]:
    """Metrics of the split ``validation``, of the ensemble of all members; empty without this split."""
    if evaluate is None:
        return {}
    if len(members) == 1:
        metrics = members[0][-1].metrics
    else:
        metrics = evaluate(ClassifierEnsemble([_classifier(stages[-1]) for stages in members], weights))
    return {"validation_loss": metrics["validation_loss"], "validation_accuracy": metrics["accuracy"]}


def _classifier(result: FitResult) -> TextClassifier:
    assert isinstance(result.network, TextClassifier)
    return result.network


def find_classifier_rate(
    ids: pl.DataFrame,
    vocabulary: Vocabulary,
    classes: Sequence[str],
    language_model: ModelBundle,
    network: ClassifierOptions,
    training: ClassifierTraining,
    finder: FinderOptions,
) -> RangeTest:
    """Learning-rate range test of the first stage, with the network of the first seed.

    Later stages have no range test: they start from trained weights.
    """
    data = ClassifierData.from_documents(ids, vocabulary, classes, language_model, network)
    accelerator, stage, seed = make_accelerator(training), training.stages[0], training.seeds[0]

    def search(network: nn.Module, stop: threading.Event) -> RangeTest:
        assert isinstance(network, TextClassifier)
        options = training.of_stage(stage)
        return range_test(
            network,
            data.batches(options, accelerator),
            options,
            finder,
            accelerator=accelerator,
            seed=seed,
            groups=unfrozen_groups(network, stage, training),
            stop=stop,
        )

    return with_seed(seed, training.threads, data.build, search)


def load_classifier(bundle: ModelBundle) -> tuple[ClassifierEnsemble, Vocabulary, TokenOptions, list[str]]:
    """Load the classifiers, in evaluation mode, their vocabulary, tokenizer settings and classes.

    Raises:
        DataError: if the bundle is not a text classifier.
    """
    if bundle.kind != KIND:
        raise DataError(f"the model bundle is of the kind {bundle.kind!r}, not {KIND!r}")
    # Old bundles hold one network, whose weights have no number of a member in their names.
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
    """Predict probabilities float64 [D, C] of documents, in full precision, on ``device`` or the network's device.

    Raises:
        ValueError: if a document has no token; an empty text has at least its start token.
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
    """Logits, or log-probabilities of an ensemble, float64 [D, C] on the CPU."""
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
