"""Estimators of texts: the language model and the classifier that the text pipelines train."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from embedline.api.nodes import SOURCE, Block, Estimator, blocks_of, plain_labels, read_texts, read_y, run_nodes
from embedline.pipelines.text import generation, pipeline
from embedline.pipelines.text.documents import TEST, TRAIN, UNLABELLED
from embedline.pipelines.text.language_model import evaluator
from embedline.pipelines.text.lm_batches import Corpus
from embedline.pipelines.text.options import GenerationOptions, LanguageModelTraining
from embedline.pipelines.text.predict import Predictor
from embedline.pipelines.text.tokenizer import tokenize_texts
from embedline.training.device import make_accelerator
from embedline.training.model_file import ModelBundle

# Small networks, which two CPU cores train on a few thousand texts in minutes.
DEFAULTS: dict[str, Any] = {
    "tokens": {"rules": "ulmfit"},
    "vocabulary": {"min_freq": 2},
    "language_model": {"embedding_size": 100, "hidden_size": 200, "n_layers": 2, "drop_mult": 0.3},
    "language_model_training": {"epochs": 3, "batch_size": 16, "bptt": 35, "lr": 0.01},
    "classifier": {"drop_mult": 0.3},
    "classifier_training": {
        "batch_size": 32,
        "rate_decay": 1.5,
        "stages": [{"unfrozen": 1, "epochs": 1, "lr": 0.02}, {"unfrozen": None, "epochs": 4, "lr": 0.01}],
    },
}


class _TextEstimator(Estimator):
    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array = True, False
        return tags


class LanguageModel(_TextEstimator):
    """A model of texts that goes on from a prompt (AWD-LSTM), and that a :class:`TextClassifier` can start from.

    Args:
        tokens, split, vocabulary, language_model, language_model_training: blocks as in YAML; what a given block lacks
            has the default of YAML. Without a block small networks are trained.
        directions: ``forward``, or ``both`` for a classifier that reads both ways.
        pretrained: path or address of a model to start from, fastai's ``wt103-fwd.tgz`` or one of a pipeline.

    Attributes:
        bundle_: the model, as a pipeline stores it under ``<source>.language_model``.
    """

    def __init__(
        self,
        *,
        tokens: Block = None,
        split: Block = None,
        vocabulary: Block = None,
        language_model: Block = None,
        language_model_training: Block = None,
        directions: str = "forward",
        pretrained: str | None = None,
    ) -> None:
        self.tokens, self.split, self.vocabulary = tokens, split, vocabulary
        self.language_model, self.language_model_training = language_model, language_model_training
        self.directions, self.pretrained = directions, pretrained

    def fit(self, X: Any, y: None = None) -> Self:
        """Train on texts [N]: a list, an array or a Series; a tenth of them measures the perplexity."""
        texts = read_texts(X)
        documents = _documents(texts, [None] * len(texts), UNLABELLED)
        blocks = {**blocks_of(self, DEFAULTS), "classes": []}
        learner = pipeline.create_language_model_pipeline(SOURCE)
        (bundle,) = run_nodes(learner, {"documents": documents}, blocks, ["language_model"])
        self._set_bundle(bundle)
        return self

    def _set_bundle(self, bundle: ModelBundle) -> None:
        self._network, self._vocabulary, self._tokens = generation.load_generator(bundle)
        self.bundle_ = bundle

    def generate(self, prompt: str = "", n_tokens: int = 50, **options: Any) -> list[str]:
        """Texts that begin with a prompt, with ``n_tokens`` more.

        ``options`` are those of :class:`.options.GenerationOptions`, such as ``n_samples=3, temperature=0.8,
        min_p=0.05`` or ``beams=4``.
        """
        check_is_fitted(self)
        settings = GenerationOptions(n_tokens=n_tokens, **options)
        ids = generation.prompt_ids(prompt, self._vocabulary, self._tokens)
        return generation.generate(self._network, self._vocabulary, ids, settings)["text"].to_list()

    def next_words(self, prompt: str = "", k: int = 10) -> pl.DataFrame:
        """The k likeliest next words of a prompt with their probabilities (:func:`.generation.next_words`)."""
        check_is_fitted(self)
        ids = generation.prompt_ids(prompt, self._vocabulary, self._tokens)
        return generation.next_words(self._network, self._vocabulary, ids, k)

    def score(self, X: Any, y: None = None) -> float:
        """Mean log-likelihood of a token of texts [N] in nats, higher is better; ``exp(-score)`` is the perplexity."""
        check_is_fitted(self)
        found = [self._vocabulary.ids(tokens) for tokens in tokenize_texts(read_texts(X), self._tokens)]
        corpus = Corpus(np.concatenate(found), np.cumsum([0, *map(len, found)]))
        accelerator = make_accelerator(LanguageModelTraining(epochs=1, batch_size=1, lr=1.0, precision="fp32"))
        return -evaluator(corpus, accelerator)(self._network)["validation_loss"]


class TextClassifier(ClassifierMixin, _TextEstimator):
    """Classes of texts: a language model that is fine-tuned (ULMFiT, Howard & Ruder 2018), pooled with NB-SVM.

    Args:
        language_model: to start from: a fitted :class:`LanguageModel`, or the path of its file or of a pipeline's. One
            that is not fitted is trained on the texts of ``fit``; None: a small one. scikit-learn's ``clone``, and
            with it ``cross_val_score``, forgets what a model has learned: wrap it in ``FrozenEstimator`` there.
        classifier, classifier_training, baseline: blocks as in YAML.

    Attributes:
        classes_: the classes [C], in the order of the probabilities.
        bundle_: the model, as a pipeline stores it under ``<source>.model``.
    """

    classes_: NDArray[Any]

    def __init__(
        self,
        *,
        language_model: LanguageModel | str | Path | None = None,
        classifier: Block = None,
        classifier_training: Block = None,
        baseline: Block = None,
    ) -> None:
        self.language_model, self.baseline = language_model, baseline
        self.classifier, self.classifier_training = classifier, classifier_training

    def fit(self, X: Any, y: ArrayLike) -> Self:
        """Train on texts [N] with their labels [N]; a tenth of them chooses how networks and NB-SVM are pooled."""
        texts = read_texts(X)
        values = read_y(self, y, len(texts))
        classes, places = np.unique(values, return_inverse=True)
        names = [str(name) for name in plain_labels(classes).tolist()]
        labels = [names[place] for place in places]
        # The learner wants documents to measure itself on, which no training reads: a copy stands for them.
        documents = _documents([*texts, texts[0]], [*labels, labels[0]], TRAIN)
        documents = documents.with_columns(split=pl.Series([TRAIN] * len(texts) + [TEST]))
        language: Any = self.language_model or LanguageModel()
        if isinstance(language, str | Path):
            language = LanguageModel.load(language)
        language = getattr(language, "estimator", language)  # of a FrozenEstimator
        blocks, frames = blocks_of(language, DEFAULTS), {"documents": documents}
        learner = pipeline.create_pipeline(SOURCE)
        if start := getattr(language, "bundle_", None):
            learner = pipeline.create_pipeline(SOURCE, language_model=f"{SOURCE}.start")
            blocks["tokens"], frames["start"] = start.encoder["tokens"], start
        blocks |= {name: value for name, value in blocks_of(self, DEFAULTS).items() if name != "language_model"}
        (bundle,) = run_nodes(learner, frames, {**blocks, "classes": names}, ["model"])
        self.classes_ = classes
        self._set_bundle(bundle)
        return self

    def _set_bundle(self, bundle: ModelBundle) -> None:
        self._predictor = Predictor.from_bundle(bundle)
        if len(getattr(self, "classes_", ())) != len(self._predictor.classes):
            self.classes_ = np.array(self._predictor.classes)
        self.bundle_ = bundle

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Probabilities [N, C] of the classes of texts [N]."""
        check_is_fitted(self)
        found = self._predictor.predict(read_texts(X))
        return found.select(f"p_{name}" for name in self._predictor.classes).to_numpy()

    def predict(self, X: Any) -> NDArray[Any]:
        """The likeliest class of each text, [N]."""
        probabilities = self.predict_proba(X)
        chosen: NDArray[Any] = self.classes_[probabilities.argmax(axis=1)]
        return chosen

    def explain(self, text: str) -> pl.DataFrame:
        """Influence of each word of a text on its class (:meth:`.predict.Predictor.explain`)."""
        check_is_fitted(self)
        return self._predictor.explain(text)


def _documents(texts: Sequence[str], labels: Sequence[str | None], split: str) -> pl.DataFrame:
    """The frame of documents; ids of one length, since the draw of validation documents sorts them."""
    ids = [f"{number:09d}" for number in range(len(texts))]
    frame = pl.DataFrame({"document_id": ids, "text": texts}, schema={"document_id": pl.String, "text": pl.String})
    return frame.with_columns(pl.Series("label", labels, dtype=pl.String), split=pl.lit(split))
