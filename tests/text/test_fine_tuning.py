"""A classifier from a language model's bundle to predictions: initial weights, training, bundle, errors."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F

from embedline.errors import DataError
from embedline.pipelines.text import fine_tuning
from embedline.pipelines.text.classifier import class_probabilities, load_classifier, predict_split
from embedline.pipelines.text.classifier_batches import pad
from embedline.pipelines.text.evaluation import class_codes
from embedline.pipelines.text.fine_tuning import train_classifier
from embedline.pipelines.text.language_model import load_language_model
from embedline.pipelines.text.lm_batches import Corpus
from embedline.pipelines.text.options import ClassifierOptions, ClassifierTraining
from embedline.pipelines.text.vocabulary import Vocabulary
from embedline.training import checkpoint as checkpoints
from embedline.training import optimizer as schedules
from embedline.training.checkpoint import Record
from embedline.training.model_file import ModelBundle

CLASSES = ["neg", "pos"]
NETWORK = ClassifierOptions(layers=(5,), bptt=6, max_tokens=12)
HEAD, ALL = {"unfrozen": 1, "epochs": 1, "lr": 0.02}, {"unfrozen": None, "epochs": 2, "lr": 0.01}

Trained = tuple[ModelBundle, list[Record]]
Train = Callable[..., Trained]


@pytest.fixture(scope="module")
def train(ids: pl.DataFrame, vocabulary: Vocabulary, language_model: ModelBundle) -> Train:
    def train(*, network: ClassifierOptions = NETWORK, documents: pl.DataFrame = ids, **changes: Any) -> Trained:
        values = {"batch_size": 6, "stages": [HEAD, ALL], "device": "cpu", "precision": "fp32", "threads": 1}
        training = ClassifierTraining.model_validate({**values, **changes})
        return train_classifier(documents, vocabulary, CLASSES, language_model, network, training)

    return train


@pytest.fixture(scope="module")
def trained(train: Train) -> Trained:
    return train()


def assert_same(first: Trained, second: Trained) -> None:
    ours, theirs = first[0].weights, second[0].weights
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert first[1] == second[1]


def test_the_first_stage_trains_the_head_alone_upon_the_language_models_encoder(
    train: Train, language_model: ModelBundle
) -> None:
    bundle, _ = train(stages=[HEAD])
    encoder = {name: tensor for name, tensor in bundle.member(0).items() if name.startswith("encoder.")}
    assert encoder.keys() == {name for name in language_model.weights if name.startswith("encoder.")}
    assert all(torch.equal(tensor, language_model.weights[name]) for name, tensor in encoder.items())
    later, _ = train()
    assert not any(torch.equal(later.member(0)[name], tensor) for name, tensor in encoder.items())


@pytest.mark.parametrize(("unfrozen", "frozen"), [(2, ["embedding", "layers.0"]), (3, ["embedding"]), (4, [])])
def test_each_stage_unfreezes_as_many_groups_as_it_says(
    unfrozen: int, frozen: list[str], train: Train, language_model: ModelBundle
) -> None:
    bundle, _ = train(stages=[HEAD, {"unfrozen": unfrozen, "epochs": 1, "lr": 0.01}])
    for name, tensor in language_model.weights.items():
        if name.startswith("encoder."):
            same = torch.equal(bundle.member(0)[name], tensor)
            assert same is name.startswith(tuple(f"encoder.{group}." for group in frozen)), name


def test_each_stage_has_its_own_order_of_documents_and_rates_by_layer(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, list[float]]] = []
    real = fine_tuning.train

    def spy(*arguments: Any, **settings: Any) -> Any:
        seen.append((settings["seed"], [group.rate for group in settings["groups"]]))
        return real(*arguments, **settings)

    monkeypatch.setattr(fine_tuning, "train", spy)
    train(rate_decay=2.0, seeds=[7])
    assert seen == [(7, [0.125, 0.25, 0.5, 1.0]), (8, [0.125, 0.25, 0.5, 1.0])]  # embedding, two layers, head


def test_the_classifier_has_the_sizes_of_the_language_model_and_dropout_of_its_own(
    trained: Trained, language_model: ModelBundle
) -> None:
    config = trained[0].config
    sizes = ("embedding_size", "hidden_size", "n_layers")
    assert {name: config["encoder"][name] for name in sizes} == dict(zip(sizes, (6, 9, 2), strict=True))
    assert config["encoder"]["rates"] == NETWORK.rates().model_dump() != language_model.config["encoder"]["rates"]
    assert (config["bptt"], config["max_tokens"], config["layers"], config["n_classes"]) == (6, 12, [5], 2)


def test_the_history_goes_through_the_stages_each_with_a_schedule_of_its_own(trained: Trained) -> None:
    _, history = trained
    assert [(record["stage"], record["step"]) for record in history] == [
        *((0, step) for step in range(1, 5)),
        *((1, step) for step in range(1, 9)),
    ]
    training = ClassifierTraining.model_validate({"batch_size": 6, "stages": [HEAD, ALL]})
    for place, n_steps in ((0, 4), (1, 8)):
        options = training.of_stage(training.stages[place])
        rates = [schedules.learning_rate(options, step / n_steps) for step in range(n_steps)]
        assert [record["lr"] for record in history if record["stage"] == place] == pytest.approx(rates)
    assert [(r["stage"], r["epoch"]) for r in history if "accuracy" in r] == [(0, 1.0), (1, 1.0), (1, 2.0)]


def test_the_metrics_are_those_of_the_stored_network_on_the_validation_split(
    trained: Trained, ids: pl.DataFrame, language_model: ModelBundle
) -> None:
    bundle, history = trained
    held_out = ids.filter(pl.col("split") == "validation")
    found = predict_split(ids, bundle, split="validation")
    truth = torch.from_numpy(class_codes(held_out, CLASSES))
    logs = torch.from_numpy(found.select("p_neg", "p_pos").to_numpy()).log()
    assert history[-1]["validation_loss"] == pytest.approx(F.nll_loss(logs, truth).item(), rel=1e-6)
    assert history[-1]["accuracy"] == (found["predicted"] == found["label"]).mean()
    assert bundle.metrics["validation_loss"] == history[-1]["validation_loss"]
    assert bundle.metrics["validation_accuracy"] == history[-1]["accuracy"]
    assert (bundle.metrics["documents"], bundle.metrics["epochs"]) == (24, 3)
    assert bundle.metrics["language_model"] == language_model.metrics


def test_it_learns_the_words_that_tell_the_class(train: Train, ids: pl.DataFrame) -> None:
    stages = [HEAD, {"unfrozen": None, "epochs": 40, "lr": 0.05}]
    network = ClassifierOptions(layers=(5,), bptt=6, max_tokens=1000, drop_mult=0.0, head_dropout=0.0)
    bundle, _ = train(network=network, stages=stages, rate_decay=1.0, alpha=0.0, beta=0.0)
    learned = predict_split(ids, bundle, split="train")
    assert (learned["predicted"] == learned["label"]).all()
    unseen = predict_split(ids, bundle)
    assert (unseen["predicted"] == unseen["label"]).mean() > 0.8


def test_averaged_weights_are_those_that_are_stored_and_that_the_next_stage_starts_from(
    train: Train, trained: Trained, ids: pl.DataFrame
) -> None:
    bundle, history = train(averaging={"decay": 0.5})
    assert not torch.equal(bundle.weights["0.head.2.weight"], trained[0].weights["0.head.2.weight"])
    found = predict_split(ids, bundle, split="validation")
    assert history[-1]["accuracy"] == (found["predicted"] == found["label"]).mean()
    still, _ = train(averaging={"decay": 0.5}, stages=[HEAD, {"unfrozen": 1, "epochs": 1, "lr": 1e-12}])
    once, _ = train(averaging={"decay": 0.5}, stages=[HEAD])  # as the second stage hardly moves
    torch.testing.assert_close(still.weights["0.head.2.weight"], once.weights["0.head.2.weight"], rtol=0.0, atol=1e-9)


def test_a_seed_gives_the_same_classifier_to_the_last_bit(train: Train, trained: Trained) -> None:
    torch.rand(3)  # whatever else draws from the shared numbers
    assert_same(train(), trained)
    assert not torch.equal(train(seeds=[43])[0].weights["0.head.2.weight"], trained[0].weights["0.head.2.weight"])


def test_only_documents_of_the_training_part_are_learned(train: Train, trained: Trained, ids: pl.DataFrame) -> None:
    others = ids.with_columns(
        ids=pl.when(pl.col("split") == "train").then(pl.col("ids")).otherwise(pl.col("ids").list.reverse()),
        label=pl.when(pl.col("split") == "test").then(pl.lit("whatever")).otherwise(pl.col("label")),
    )
    bundle, _ = train(documents=others)
    assert all(torch.equal(tensor, trained[0].weights[name]) for name, tensor in bundle.weights.items())
    alone, history = train(documents=ids.filter(pl.col("split") == "train"))
    assert all(torch.equal(tensor, trained[0].weights[name]) for name, tensor in alone.weights.items())
    assert "accuracy" not in history[-1]
    assert "validation_accuracy" not in alone.metrics


CHANGES: list[dict[str, Any]] = [{}, {"averaging": {"decay": 0.9}, "clip_norm": 0.3, "rate_decay": 1.5}]


@pytest.mark.parametrize("changes", CHANGES, ids=["plain", "all"])
@pytest.mark.parametrize(
    ("report", "stage", "step"),
    [(2, 0, 2), (5, 0, 4), (6, 1, 2), (7, 1, 4), (8, 1, 4), (9, 1, 6), (11, 1, 8)],
)
def test_cut_off_in_any_stage_and_resumed_it_ends_in_the_same_bits(
    report: int,
    stage: int,
    step: int,
    changes: dict[str, Any],
    train: Train,
    cut_off_after: Callable[[int], AbstractContextManager[None]],
    checkpoint_folder: Path,
    n_steps: list[int],
) -> None:
    whole = train(**changes)
    total = len(n_steps)
    assert total == 12
    with cut_off_after(report):
        train(**changes)
    names = sorted(path.name for path in checkpoint_folder.iterdir())
    assert names == [f"stage{place}.pt" for place in range(stage + 1)]
    kept = torch.load(checkpoint_folder / names[-1], weights_only=True)["state"]
    assert kept["step"] == step
    n_steps.clear()
    with checkpoints.checkpointing(checkpoint_folder, 3600.0):
        resumed = train(**changes)
    assert len(n_steps) == total - 4 * stage - step
    assert_same(resumed, whole)


def test_a_label_that_is_no_class_and_a_class_without_documents_are_refused(train: Train, ids: pl.DataFrame) -> None:
    frame = pl.DataFrame({"document_id": ["a", "b", "c"], "label": ["pos", "neg", "pos"]})
    assert class_codes(frame, CLASSES).tolist() == [1, 0, 1]
    assert class_codes(frame, CLASSES[::-1]).tolist() == [0, 1, 0]
    with pytest.raises(DataError, match="document 'b' has the label 'neg', which is none of the classes"):
        class_codes(frame, ["pos", "fair"])
    bare = frame.with_columns(label=pl.lit(None, dtype=pl.String))
    with pytest.raises(DataError, match="document 'a' has the label None"):
        class_codes(bare, CLASSES)
    with pytest.raises(DataError, match="the split 'train' has no document of the class 'pos'"):
        train(documents=ids.filter((pl.col("label") == "neg") | (pl.col("split") != "train")))


def test_a_loaded_bundle_predicts_what_the_network_did(
    trained: Trained, ids: pl.DataFrame, vocabulary: Vocabulary
) -> None:
    bundle = ModelBundle.from_bytes(trained[0].to_bytes())
    network, words, tokens, classes = load_classifier(bundle)
    assert not network.training
    assert (words, tokens.rules, classes) == (vocabulary, "ulmfit", CLASSES)
    assert predict_split(ids, bundle).equals(predict_split(ids, trained[0]))


def test_bundles_of_the_other_kind_are_refused(trained: Trained, language_model: ModelBundle) -> None:
    with pytest.raises(DataError, match="the model bundle is of the kind 'language_model', not 'text_classifier'"):
        load_classifier(language_model)
    with pytest.raises(DataError, match="the model bundle is of the kind 'text_classifier', not 'language_model'"):
        load_language_model(trained[0])


def test_predictions_name_the_most_probable_class_of_each_document_in_its_order(
    trained: Trained, ids: pl.DataFrame
) -> None:
    documents = ids.filter(pl.col("split") == "test")
    found = predict_split(ids, trained[0])
    assert found.columns == ["document_id", "label", "predicted", "confidence", "p_neg", "p_pos"]
    assert found.schema["p_pos"] == found.schema["confidence"] == pl.Float64
    assert found.select("document_id", "label").equals(documents.select("document_id", "label"))
    network, *_ = load_classifier(trained[0])
    for row, document in zip(found.iter_rows(named=True), documents.get_column("ids"), strict=True):
        tokens, lengths = pad([document.to_numpy()], torch.device("cpu"))
        with torch.no_grad():
            expected = F.softmax(network(tokens, lengths).double(), dim=1)[0].tolist()
        assert [row["p_neg"], row["p_pos"]] == pytest.approx(expected, rel=1e-5)
        assert row["confidence"] == max(row["p_neg"], row["p_pos"])
        assert row["predicted"] == CLASSES[int(row["p_pos"] > row["p_neg"])]
    shuffled = ids.sample(fraction=1.0, shuffle=True, seed=1)
    again = predict_split(shuffled, trained[0]).sort("document_id")
    assert again["p_pos"].to_list() == pytest.approx(found.sort("document_id")["p_pos"].to_list(), rel=1e-5)


def test_a_split_without_documents_cannot_be_predicted(trained: Trained, ids: pl.DataFrame) -> None:
    with pytest.raises(DataError, match="no document is in the split"):
        predict_split(ids.filter(pl.col("split") != "test"), trained[0])


def test_ids_of_another_vocabulary_are_refused(trained: Trained, ids: pl.DataFrame) -> None:
    foreign = ids.with_columns(ids=pl.col("ids").list.eval(pl.element() + 9))
    with pytest.raises(
        DataError, match=r"has the token id \d+, but the model knows 29: the ids were made with another"
    ):
        predict_split(foreign, trained[0])


def test_probabilities_do_not_depend_on_the_documents_beside(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    network, *_ = load_classifier(trained[0])
    numbers = np.random.default_rng(0)
    documents = [numbers.integers(0, 29, length) for length in (1, 40, 6, 7, 12, 13, 3, 25, 5)]
    expected = np.concatenate([class_probabilities(network, [document]) for document in documents])
    assert (expected.shape, expected.dtype) == ((9, 2), np.float64)
    assert expected.sum(1) == pytest.approx(np.ones(9))
    assert len(np.unique(expected[:, 0].round(6))) == 9
    for batch_size in (1, 2, 4, 64):
        monkeypatch.setattr("embedline.pipelines.text.classifier.PREDICT_DOCUMENTS", batch_size)
        for order in (np.arange(9), numbers.permutation(9)):
            found = class_probabilities(network, [documents[place] for place in order])
            np.testing.assert_allclose(found, expected[order], rtol=1e-5)
    corpus = Corpus(np.concatenate(documents).astype(np.uint16), np.cumsum([0, *map(len, documents)]))
    np.testing.assert_allclose(class_probabilities(network, corpus), expected, rtol=1e-5)
    np.testing.assert_allclose(class_probabilities(network.train(), corpus), expected, rtol=1e-5)  # no dropout


def test_a_document_without_a_token_is_no_document(trained: Trained) -> None:
    network, *_ = load_classifier(trained[0])
    with pytest.raises(ValueError, match="a document has no token"):
        class_probabilities(network, [np.array([2, 3]), np.array([], dtype=np.int64)])
    assert class_probabilities(network, []).shape == (0, 2)
