"""The text learner as modular pipelines; the namespace of a pipeline is the source."""

from collections.abc import Callable
from typing import Any

from kedro.pipeline import Node, Pipeline

from embedline.pipelines.text import nodes, pretrained_nodes


def create_pipeline(
    source: str, *, documents: str | None = None, language_model: str | None = None, ceiling: str | None = None
) -> Pipeline:
    """Tokenize, train language models, fine-tune them into classifiers, combine these with a baseline, and report.

    Args:
        source: namespace: parameters are read from ``params:<source>.…``, artifacts are named ``<source>.…``.
        documents: frame of documents; None: ``<source>.documents``.
        language_model: stored language model to start from, such as ``imdb.language_model``, instead of training one;
            its vocabulary is matched with that of the documents.
        ceiling: dataset of the best values that a classifier can expect, by metric, to stand beside the metrics; None
            where the law of the documents is not known.
    """
    bound = {"ceiling": ceiling} if ceiling else {}
    learner = [*_classifier_nodes(), *_report_nodes([*bound])]
    inputs = {"documents": documents or f"{source}.documents", **bound}
    if not language_model:
        before = create_language_model_pipeline(source, documents=documents)
        return before + Pipeline(learner, namespace=source, inputs=inputs)
    inputs["language_model"] = language_model
    return Pipeline([*_token_nodes(), *learner], namespace=source, inputs=inputs)


def create_language_model_pipeline(source: str, *, documents: str | None = None) -> Pipeline:
    """Tokenize, train a language model, evaluate it, and let it write; the documents need no labels (``classes: []``).

    Arguments are those of :func:`create_pipeline`.
    """
    inputs = {"documents": documents or f"{source}.documents"}
    return Pipeline([*_token_nodes(), *_language_nodes()], namespace=source, inputs=inputs)


def create_prediction_pipeline(source: str, *, texts: str | None = None) -> Pipeline:
    """Classify ``texts``, a frame with a column of texts (``<source>.texts``), with the stored model of ``source``."""
    node = _node(nodes.predict_texts, ["texts", "model", "params:prediction"], "predicted_texts", "predict")
    return Pipeline([node], namespace=source, inputs={"texts": texts or f"{source}.texts", "model": f"{source}.model"})


def create_finder_pipeline(source: str, *, language_model: str | None = None) -> Pipeline:
    """Learning-rate range tests of the language model and of the classifier's first stage.

    They read the ids, the vocabulary and the language model that a run of ``source`` has stored; ``language_model`` is
    another one for the classifier to start from.
    """
    inputs = {name: f"{source}.{name}" for name in ("ids", "vocabulary", "language_model")}
    if language_model:
        inputs["language_model"] = language_model
    return Pipeline([_acquiring_node(), *_finder_nodes()], namespace=source, inputs=inputs)


def _node(function: Callable[..., Any], inputs: str | list[str], outputs: str | list[str], tag: str) -> Node:
    return Node(function, inputs, outputs, name=function.__name__, tags=tag)


def _token_nodes() -> list[Node]:
    fitted_on = ["tokens", "lexicon", "params:tokens", "params:split", "params:vocabulary"]
    return [
        _node(nodes.tokenize, ["documents", "params:tokens", "params:classes"], ["tokens", "lexicon"], "encode"),
        _node(nodes.fit_vocabulary, fitted_on, "vocabulary", "encode"),
        _node(nodes.numericalize, ["tokens", "lexicon", "vocabulary", "params:split"], "ids", "encode"),
    ]


def _acquiring_node() -> Node:
    return _node(pretrained_nodes.acquire_pretrained, "params:pretrained", "pretrained", "acquire")


def _language_nodes() -> list[Node]:
    trained_on = ["ids", "vocabulary", "params:tokens", "params:language_model", "params:language_model_training"]
    trained_on += ["params:directions", "pretrained"]
    history = "language_model_history"
    return [
        _acquiring_node(),
        _node(nodes.train_language_model, trained_on, ["language_model", history], "train"),
        _node(nodes.evaluate_language_model, ["ids", "language_model"], "language_model_metrics", "evaluate"),
        _node(nodes.generate_samples, ["language_model", "params:generation"], ["samples", "next_words"], "evaluate"),
        _node(nodes.plot_language_model, history, "language_model_plot", "plot"),
    ]


CLASSIFIER_INPUTS = ["ids", "vocabulary", "params:classes", "language_model"]
CLASSIFIER_INPUTS += ["params:classifier", "params:classifier_training"]


def _classifier_nodes() -> list[Node]:
    baseline = ["tokens", "lexicon", "params:split", "params:classes", "params:baseline"]
    combined = ["ids", "classifier", "baseline", "baseline_validation", "params:classes"]
    return [
        _node(nodes.train_classifier, [*CLASSIFIER_INPUTS, "params:directions"], ["classifier", "history"], "train"),
        _node(nodes.train_baseline, baseline, ["baseline", "baseline_validation"], "train"),
        _node(nodes.predict_baseline, ["tokens", "lexicon", "baseline"], "baseline_predictions", "evaluate"),
        _node(nodes.combine, combined, "model", "train"),
        _node(
            nodes.predict, ["ids", "model", "baseline_predictions"], ["predictions", "member_predictions"], "evaluate"
        ),
    ]


def _finder_nodes() -> list[Node]:
    language = ["ids", "vocabulary", "params:language_model", "params:language_model_training", "params:finder"]
    language.append("pretrained")
    classifier = [*CLASSIFIER_INPUTS, "params:finder"]
    return [
        _node(nodes.find_language_model_rate, language, "language_model_rates", "train"),
        _node(nodes.find_classifier_rate, classifier, "classifier_rates", "train"),
        _node(nodes.plot_language_model_rates, "language_model_rates", "language_model_rate_plot", "plot"),
        _node(nodes.plot_classifier_rates, "classifier_rates", "classifier_rate_plot", "plot"),
    ]


def _report_nodes(bound: list[str]) -> list[Node]:
    compared = ["predictions", "baseline_predictions", "params:classes"]
    measured = ["predictions", "member_predictions", "params:classes", "model", "ids", "params:report", *bound]
    listed = ["predictions", "baseline_predictions", "documents", "params:report"]
    return [
        _node(nodes.evaluate, measured, "metrics", "evaluate"),
        _node(nodes.list_mistakes, listed, "mistakes", "evaluate"),
        _node(nodes.plot_training, "history", "training_plot", "plot"),
        _node(nodes.plot_confusion, ["predictions", "params:classes"], "confusion_plot", "plot"),
        _node(nodes.plot_calibration, [*compared, "params:report"], "calibration_plot", "plot"),
    ]
