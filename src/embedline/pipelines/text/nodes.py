"""Nodes of the text learner. Their inputs and outputs are frames, settings, model bundles and plots.

PyTorch, spaCy, scikit-learn and Plotly are imported inside the functions, since each Kedro command imports this module.
"""

import logging
from typing import Any

import polars as pl

from embedline.errors import about_frame
from embedline.pipelines.text import baseline as baselines
from embedline.pipelines.text import evaluation
from embedline.pipelines.text import vocabulary as vocabularies
from embedline.pipelines.text.baseline import BaselineOptions
from embedline.pipelines.text.documents import SplitOptions, read_documents
from embedline.pipelines.text.evaluation import ReportOptions
from embedline.pipelines.text.options import (
    Classes,
    ClassifierOptions,
    ClassifierTraining,
    LanguageModelOptions,
    LanguageModelTraining,
    PredictionOptions,
    SampleOptions,
)
from embedline.pipelines.text.tokenizer import TokenOptions, tokenize_documents
from embedline.pipelines.text.vocabulary import VocabularyOptions, load_vocabulary
from embedline.training.ceiling import beside
from embedline.training.options import FinderOptions

logger = logging.getLogger(__name__)

Frame = Any  # polars.DataFrame or pandas.DataFrame
Plot = Any  # plotly.graph_objects.Figure
Bundle = Any  # embedline.training.model_file.ModelBundle


def tokenize(documents: Frame, tokens: TokenOptions, classes: Classes) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Tokenize the documents; return their token codes, and the lexicon that the codes are rows of.

    Raises:
        DataError: the documents are invalid, or a label is not among the classes (checked before hours of training).
    """
    with about_frame("documents"):
        return tokenize_documents(read_documents(documents, list(classes)), tokens)


def fit_vocabulary(
    tokens: pl.DataFrame, lexicon: pl.DataFrame, rules: TokenOptions, split: SplitOptions, vocabulary: VocabularyOptions
) -> dict[str, Any]:
    """Fit the vocabulary on the training texts, by frequency; return its JSON values."""
    fitted = vocabularies.fit_vocabulary(tokens, lexicon, split, rules.rules, vocabulary, rules.language)
    logger.info("Vocabulary of %s words out of %s", f"{len(fitted):,}", f"{len(lexicon):,}")
    return fitted.model_dump(mode="json")


def numericalize(
    tokens: pl.DataFrame, lexicon: pl.DataFrame, vocabulary: dict[str, Any], split: SplitOptions
) -> pl.DataFrame:
    """Convert each document's tokens to ids; the held-out training documents become the split ``validation``.

    A warning says in which splits more than 10 % of the tokens are unknown; more than 90 % in ``train`` is a DataError.
    """
    return vocabularies.numericalize(tokens, lexicon, load_vocabulary(vocabulary), split)


def train_language_model(
    ids: pl.DataFrame,
    vocabulary: dict[str, Any],
    tokens: TokenOptions,
    network: LanguageModelOptions,
    training: LanguageModelTraining,
) -> tuple[Bundle, pl.DataFrame]:
    """Train the language model on training and unlabelled texts; return the bundle and the history."""
    from embedline.pipelines.text.language_model import train_language_model as fit
    from embedline.training.ensemble import history_frame

    bundle, history = fit(ids, load_vocabulary(vocabulary, tokens), tokens, network, training)
    perplexity = f"{bundle.metrics['perplexity']:.1f}" if "perplexity" in bundle.metrics else "not measured"
    _log_training(f"Language model of {bundle.metrics['vocabulary']:,} words: perplexity {perplexity}", bundle.metrics)
    return bundle, history_frame(history)


def train_classifier(
    ids: pl.DataFrame,
    vocabulary: dict[str, Any],
    classes: Classes,
    language_model: Bundle,
    network: ClassifierOptions,
    training: ClassifierTraining,
) -> tuple[Bundle, pl.DataFrame]:
    """Fine-tune the language model's encoder into a classifier for each seed; return the bundle and the history."""
    from embedline.pipelines.text.fine_tuning import train_classifier as fit
    from embedline.training.ensemble import history_frame

    bundle, history = fit(ids, load_vocabulary(vocabulary), list(classes), language_model, network, training)
    measured = bundle.metrics.get("validation_accuracy")
    accuracy = "not measured" if measured is None else f"{measured:.4f}"
    result = f"Classifier of {bundle.metrics['members']} network(s): validation accuracy {accuracy}"
    _log_training(result, bundle.metrics)
    return bundle, history_frame(history)


def _log_training(result: str, metrics: dict[str, Any]) -> None:
    message = "%s after %d epoch(s) in %.0f s, %s tokens/s on %s in %s"
    speed, device, precision = f"{metrics['tokens_per_second']:,.0f}", metrics["device"], metrics["precision"]
    logger.info(message, result, metrics["epochs"], metrics["seconds"], speed, device, precision)


def find_language_model_rate(
    ids: pl.DataFrame,
    vocabulary: dict[str, Any],
    network: LanguageModelOptions,
    training: LanguageModelTraining,
    finder: FinderOptions,
) -> pl.DataFrame:
    """Range test of the language model: columns ``rate``, ``loss`` (smoothed) and ``suggestion`` (constant)."""
    from embedline.pipelines.text.language_model import find_language_model_rate as find

    test = find(ids, load_vocabulary(vocabulary), network, training, finder)
    logger.info("Range test of the language model suggests %.1e; the training uses %.1e", test.suggestion, training.lr)
    return test.frame()


def find_classifier_rate(
    ids: pl.DataFrame,
    vocabulary: dict[str, Any],
    classes: Classes,
    language_model: Bundle,
    network: ClassifierOptions,
    training: ClassifierTraining,
    finder: FinderOptions,
) -> pl.DataFrame:
    """Range test of the classifier's first stage: columns as in :func:`find_language_model_rate`."""
    from embedline.pipelines.text.fine_tuning import find_classifier_rate as find

    test = find(ids, load_vocabulary(vocabulary), list(classes), language_model, network, training, finder)
    used = training.stages[0].lr
    logger.info("Range test of the classifier suggests %.1e; its first stage uses %.1e", test.suggestion, used)
    return test.frame()


def train_baseline(
    tokens: pl.DataFrame, lexicon: pl.DataFrame, split: SplitOptions, classes: Classes, baseline: BaselineOptions
) -> tuple[Bundle, pl.DataFrame]:
    """Fit NB-SVM on the training documents; return the bundle, and predictions for validation documents.

    The latter are by a model that has not seen them; the bundle's model has learned from them too.
    """
    return baselines.train_baseline(tokens, lexicon, split, list(classes), baseline)


def predict_baseline(tokens: pl.DataFrame, lexicon: pl.DataFrame, baseline: Bundle) -> pl.DataFrame:
    """Predict the class and the probabilities of each test document with the baseline."""
    return baselines.predict_split(tokens, lexicon, baseline)


def predict(ids: pl.DataFrame, model: Bundle) -> pl.DataFrame:
    """Predict the class and the probabilities of each test document."""
    from embedline.pipelines.text.classifier import predict_split

    return predict_split(ids, model)


def evaluate(
    predictions: pl.DataFrame,
    baseline_predictions: pl.DataFrame,
    classes: Classes,
    baseline: Bundle,
    model: Bundle,
    ids: pl.DataFrame,
    report: ReportOptions,
    ceiling: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Metrics of the classifier and the baseline on the same test documents; warns if the baseline is better.

    Args:
        ceiling: the best that a classifier can expect by metric, where the law of the documents is known
            (:func:`embedline.training.ceiling.beside`).
    """
    vocabulary, training = load_vocabulary(model.encoder["vocabulary"]), dict(model.metrics)
    language_model = training.pop("language_model")
    models = {"classifier": {"training": training}, "baseline": {"training": baseline.metrics}}
    metrics = evaluation.evaluate(predictions, baseline_predictions, list(classes), report, **models)
    metrics["classifier"] |= beside(metrics["classifier"], ceiling)
    unknown = vocabularies.unknown_fractions(ids, vocabulary)
    words = {"size": len(vocabulary), "fitted_on": list(vocabulary.fitted_on), "unknown": unknown}
    return metrics | {"language_model": language_model, "vocabulary": words}


def predict_texts(texts: Frame, model: Bundle, prediction: PredictionOptions) -> pl.DataFrame:
    """Add the predicted class, the probabilities and, if set, the most influential words to each row."""
    from embedline.pipelines.text.predict import predict_texts as classify

    return classify(texts, model, prediction)


def list_mistakes(
    predictions: pl.DataFrame, baseline_predictions: pl.DataFrame, documents: Frame, report: ReportOptions
) -> pl.DataFrame:
    """List the classifier's most confident mistakes on the test documents."""
    with about_frame("documents"):
        rows = read_documents(documents)
    return evaluation.mistakes(predictions, rows, baseline_predictions, report)


def generate_samples(language_model: Bundle, samples: SampleOptions) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Generate texts and the most probable next words for each prompt."""
    from embedline.pipelines.text.generation import write_samples

    return write_samples(language_model, samples)


def plot_language_model(history: pl.DataFrame) -> Plot:
    """Plot the loss, the perplexity and the learning rate of the language model's training."""
    from embedline.pipelines.text.plots import plot_training

    return plot_training(history, "Training of the language model")


def plot_training(history: pl.DataFrame) -> Plot:
    """Plot the loss, the accuracy and the learning rate of the classifier's training, by stage or by member."""
    from embedline.pipelines.text.plots import plot_training

    if history["member"].n_unique() > 1:
        history = history.with_columns(stage=pl.format("member {}", pl.col("member") + 1))
    return plot_training(history, "Training of the classifier")


def plot_language_model_rates(rates: pl.DataFrame) -> Plot:
    """Plot the loss against the learning rate in the language model's range test."""
    from embedline.training.plots import plot_range_test

    return plot_range_test(rates, "Learning-rate range test of the language model", "smoothed loss (nats a token)")


def plot_classifier_rates(rates: pl.DataFrame) -> Plot:
    """Plot the loss against the learning rate in the range test of the classifier's first stage."""
    from embedline.training.plots import plot_range_test

    title = "Learning-rate range test of the classifier's first stage"
    return plot_range_test(rates, title, "smoothed loss (nats a document)")


def plot_confusion(predictions: pl.DataFrame, classes: Classes) -> Plot:
    """Plot actual against predicted classes."""
    from embedline.pipelines.text.plots import plot_confusion

    return plot_confusion(predictions, list(classes), "Test documents: actual and predicted classes")


def plot_calibration(
    predictions: pl.DataFrame, baseline_predictions: pl.DataFrame, classes: Classes, report: ReportOptions
) -> Plot:
    """Plot the accuracy at each confidence."""
    from embedline.pipelines.text.plots import plot_calibration

    title = "Test documents: confidence and accuracy"
    return plot_calibration(predictions, baseline_predictions, list(classes), title, report.calibration_bins)
