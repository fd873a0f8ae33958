"""The text learner as modular pipelines; the namespace of a pipeline is the source."""

from kedro.pipeline import Node, Pipeline

from embedline.pipelines.text import nodes


def create_pipeline(source: str, *, documents: str | None = None, language_model: str | None = None) -> Pipeline:
    """Tokenize, train a language model, fine-tune it into a classifier, compare with a baseline, and report.

    Args:
        source: namespace: parameters are read from ``params:<source>.…``, artifacts are named ``<source>.…``.
        documents: frame of documents; None: ``<source>.documents``.
        language_model: stored language model to start from, such as ``imdb.language_model``, instead of training one;
            its vocabulary is matched with that of the documents.
    """
    learner = [*_token_nodes(), *_classifier_nodes(), *_report_nodes()]
    inputs = {"documents": documents or f"{source}.documents"}
    if language_model:
        inputs["language_model"] = language_model
    else:
        learner += _language_nodes()
    return Pipeline(learner, namespace=source, inputs=inputs)


def create_prediction_pipeline(source: str, *, texts: str | None = None) -> Pipeline:
    """Classify the rows of a table of texts with the stored model of ``source``; nothing else is read.

    Args:
        texts: a frame with a column of texts; None: ``<source>.texts``.
    """
    node = Node(
        nodes.predict_texts,
        ["texts", "model", "params:prediction"],
        "predicted_texts",
        name="predict_texts",
        tags="predict",
    )
    return Pipeline([node], namespace=source, inputs={"texts": texts or f"{source}.texts", "model": f"{source}.model"})


def create_finder_pipeline(source: str, *, language_model: str | None = None) -> Pipeline:
    """Learning-rate range tests of the language model and of the classifier's first stage.

    They read the ids, the vocabulary and the language model that a run of ``source`` has stored.

    Args:
        language_model: language model that the classifier starts from; None: ``<source>.language_model``.
    """
    inputs = {name: f"{source}.{name}" for name in ("ids", "vocabulary", "language_model")}
    if language_model:
        inputs["language_model"] = language_model
    return Pipeline(_finder_nodes(), namespace=source, inputs=inputs)


def _token_nodes() -> list[Node]:
    return [
        Node(
            nodes.tokenize,
            ["documents", "params:tokens", "params:classes"],
            ["tokens", "lexicon"],
            name="tokenize",
            tags="encode",
        ),
        Node(
            nodes.fit_vocabulary,
            ["tokens", "lexicon", "params:tokens", "params:split", "params:vocabulary"],
            "vocabulary",
            name="fit_vocabulary",
            tags="encode",
        ),
        Node(
            nodes.numericalize,
            ["tokens", "lexicon", "vocabulary", "params:split"],
            "ids",
            name="numericalize",
            tags="encode",
        ),
    ]


def _language_nodes() -> list[Node]:
    return [
        Node(
            nodes.train_language_model,
            ["ids", "vocabulary", "params:tokens", "params:language_model", "params:language_model_training"],
            ["language_model", "language_model_history"],
            name="train_language_model",
            tags="train",
        ),
        Node(
            nodes.generate_samples,
            ["language_model", "params:generation"],
            ["samples", "next_words"],
            name="generate_samples",
            tags="evaluate",
        ),
        Node(
            nodes.plot_language_model,
            "language_model_history",
            "language_model_plot",
            name="plot_language_model",
            tags="plot",
        ),
    ]


def _classifier_nodes() -> list[Node]:
    return [
        Node(
            nodes.train_classifier,
            [
                "ids",
                "vocabulary",
                "params:classes",
                "language_model",
                "params:classifier",
                "params:classifier_training",
            ],
            ["model", "history"],
            name="train_classifier",
            tags="train",
        ),
        Node(
            nodes.train_baseline,
            ["documents", "params:split", "params:classes", "params:baseline"],
            ["baseline_predictions", "baseline_costs"],
            name="train_baseline",
            tags="evaluate",
        ),
        Node(nodes.predict, ["ids", "model"], "predictions", name="predict", tags="evaluate"),
    ]


def _finder_nodes() -> list[Node]:
    return [
        Node(
            nodes.find_language_model_rate,
            ["ids", "vocabulary", "params:language_model", "params:language_model_training", "params:finder"],
            "language_model_rates",
            name="find_language_model_rate",
            tags="train",
        ),
        Node(
            nodes.find_classifier_rate,
            [
                "ids",
                "vocabulary",
                "params:classes",
                "language_model",
                "params:classifier",
                "params:classifier_training",
                "params:finder",
            ],
            "classifier_rates",
            name="find_classifier_rate",
            tags="train",
        ),
        Node(
            nodes.plot_language_model_rates,
            "language_model_rates",
            "language_model_rate_plot",
            name="plot_language_model_rates",
            tags="plot",
        ),
        Node(
            nodes.plot_classifier_rates,
            "classifier_rates",
            "classifier_rate_plot",
            name="plot_classifier_rates",
            tags="plot",
        ),
    ]


def _report_nodes() -> list[Node]:
    compared = ["predictions", "baseline_predictions", "params:classes"]
    return [
        Node(
            nodes.evaluate,
            [*compared, "baseline_costs", "model", "ids", "params:report"],
            "metrics",
            name="evaluate",
            tags="evaluate",
        ),
        Node(
            nodes.list_mistakes,
            ["predictions", "baseline_predictions", "documents", "params:report"],
            "mistakes",
            name="list_mistakes",
            tags="evaluate",
        ),
        Node(nodes.plot_training, "history", "training_plot", name="plot_training", tags="plot"),
        Node(
            nodes.plot_confusion,
            ["predictions", "params:classes"],
            "confusion_plot",
            name="plot_confusion",
            tags="plot",
        ),
        Node(
            nodes.plot_calibration,
            [*compared, "params:report"],
            "calibration_plot",
            name="plot_calibration",
            tags="plot",
        ),
    ]
