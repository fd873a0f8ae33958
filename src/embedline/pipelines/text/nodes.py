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
    Directions,
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

    Invalid documents and labels are a DataError here, before hours of training.
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
    directions: Directions,
    pretrained: Bundle | None = None,
) -> tuple[Bundle, pl.DataFrame]:
    """Train a language model of each direction on training and unlabelled texts; return the bundle and the history."""
    from embedline.pipelines.text.language_model import train_language_model as fit
    from embedline.training.ensemble import history_frame

    words = load_vocabulary(vocabulary, tokens)
    bundle, history = fit(ids, words, tokens, network, training, directions, pretrained)
    size = bundle.metrics["vocabulary"]
    for direction in directions:
        metrics = bundle.metrics if direction == "forward" else bundle.metrics[direction]
        perplexity = f"{metrics['perplexity']:.1f}" if "perplexity" in metrics else "not measured"
        _log_training(f"Language model of {size:,} words, {direction}: perplexity {perplexity}", metrics)
    return bundle, history_frame(history)


def train_classifier(
    ids: pl.DataFrame,
    vocabulary: dict[str, Any],
    classes: Classes,
    language_model: Bundle,
    network: ClassifierOptions,
    training: ClassifierTraining,
    directions: Directions,
) -> tuple[Bundle, pl.DataFrame]:
    """Fine-tune the language models' encoders into a classifier for each direction and seed: bundle and history."""
    from embedline.pipelines.text.fine_tuning import train_classifier as fit
    from embedline.training.ensemble import history_frame

    bundle, history = fit(
        ids, load_vocabulary(vocabulary), list(classes), language_model, network, training, directions
    )
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
    pretrained: Bundle | None = None,
) -> pl.DataFrame:
    """Range test of the language model: columns ``rate``, ``loss`` (smoothed) and ``suggestion`` (constant)."""
    from embedline.pipelines.text.language_model import find_language_model_rate as find

    test = find(ids, load_vocabulary(vocabulary), network, training, finder, pretrained)
    used = f"{rate:.1e}" if (rate := training.stages[0].lr if training.stages else training.lr) else "auto"
    logger.info("Range test of the language model suggests %.1e; the training uses %s", test.suggestion, used)
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
    used = f"{training.stages[0].lr:.1e}" if training.stages else "auto"
    logger.info("Range test of the classifier suggests %.1e; its first stage uses %s", test.suggestion, used)
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


def combine(
    ids: pl.DataFrame, classifier: Bundle, baseline: Bundle, baseline_validation: pl.DataFrame, classes: Classes
) -> Bundle:
    """Combine the networks and the baseline into one model, with coefficients fitted on the validation documents."""
    from embedline.pipelines.text.ensemble import combine as fit

    return fit(ids, classifier, baseline, baseline_validation, list(classes))


def predict(ids: pl.DataFrame, model: Bundle, baseline_predictions: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Predict each test document; return the predictions of the model, and those of each of its members."""
    from embedline.pipelines.text.ensemble import predict_split

    return predict_split(ids, model, baseline_predictions)


def evaluate(
    predictions: pl.DataFrame,
    member_predictions: pl.DataFrame,
    classes: Classes,
    model: Bundle,
    ids: pl.DataFrame,
    report: ReportOptions,
    ceiling: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Metrics of the model and of each member on the same test documents; warns of a member that is better.

    ``ceiling`` is the best that a classifier can expect by metric, where the law of the documents is known.
    """
    vocabulary, training = load_vocabulary(model.encoder["vocabulary"]), dict(model.metrics)
    language, ensemble, baseline = (training.pop(name) for name in ("language_model", "ensemble", "baseline"))
    alone = {name: training.get(name, training) for name in model.config["directions"]}
    costs = {"networks": training, **alone, "baseline": baseline}
    seconds = {name: cost["seconds"] for name, cost in costs.items()}
    metrics = evaluation.evaluate(predictions, member_predictions, list(classes), report, seconds)
    metrics["classifier"] |= {"ensemble": ensemble, "training": training}
    metrics["members"]["baseline"] |= {"training": baseline}
    metrics["classifier"] |= beside(metrics["classifier"], ceiling)
    return metrics | {"language_model": language, "vocabulary": vocabularies.vocabulary_metrics(ids, vocabulary)}


def evaluate_language_model(ids: pl.DataFrame, language_model: Bundle) -> dict[str, Any]:
    """Metrics of the language model, such as its perplexity on the split ``validation``, and of its vocabulary."""
    words = vocabularies.vocabulary_metrics(ids, load_vocabulary(language_model.encoder["vocabulary"]))
    return {"language_model": language_model.metrics, "vocabulary": words}


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
    """Plot the loss, the perplexity and the learning rate of the language model's training, by direction."""
    from embedline.pipelines.text.plots import plot_training

    if history["direction"].n_unique() > 1:
        history = history.with_columns(stage="direction")
    return plot_training(history, "Training of the language model")


def plot_training(history: pl.DataFrame) -> Plot:
    """Plot the loss, the accuracy and the learning rate of the classifier's training, by stage or by member."""
    from embedline.pipelines.text.plots import plot_training

    n_members, n_directions = (history[name].n_unique() for name in ("member", "direction"))
    if n_members > 1:
        number = (pl.col("member") % (n_members // n_directions) + 1).cast(pl.String)
        by_direction = pl.col("direction") + ("" if n_members == n_directions else pl.lit(" ") + number)
        history = history.with_columns(stage=pl.format("member {}", number) if n_directions == 1 else by_direction)
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
    from embedline.training.plots import plot_confusion

    actual, probabilities = evaluation.prediction_arrays(predictions, list(classes))
    title = "Test documents: actual and predicted classes"
    return plot_confusion(actual, probabilities.argmax(axis=1), list(classes), title)


def plot_calibration(
    predictions: pl.DataFrame, baseline_predictions: pl.DataFrame, classes: Classes, report: ReportOptions
) -> Plot:
    """Plot the accuracy at each confidence."""
    from embedline.training.plots import plot_calibration

    frames = {"classifier": predictions, "baseline": baseline_predictions}
    models = {name: evaluation.prediction_arrays(frame, list(classes)) for name, frame in frames.items()}
    title = "Test documents: confidence and accuracy"
    return plot_calibration(models, title, n_bins=report.calibration_bins, rows="documents")
