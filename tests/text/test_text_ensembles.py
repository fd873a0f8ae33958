"""Classifiers of several seeds: training, bundle, averaged probabilities, and explanations."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F

from embedline.pipelines.text.classifier import class_probabilities, load_classifier, predict_split
from embedline.pipelines.text.evaluation import class_codes
from embedline.pipelines.text.fine_tuning import train_classifier
from embedline.pipelines.text.options import ClassifierOptions, ClassifierTraining
from embedline.pipelines.text.predict import Predictor, estimate_ensemble_occlusion, estimate_occlusion, log_odds
from embedline.pipelines.text.vocabulary import Vocabulary
from embedline.training import checkpoint as checkpoints
from embedline.training.checkpoint import Record
from embedline.training.model_file import ModelBundle

CLASSES = ["neg", "pos"]
STAGES = [{"unfrozen": 1, "epochs": 1, "lr": 0.02}, {"unfrozen": None, "epochs": 2, "lr": 0.05}]

Trained = tuple[ModelBundle, list[Record]]
Train = Callable[..., Trained]


@pytest.fixture(scope="module")
def train(ids: pl.DataFrame, vocabulary: Vocabulary, language_model: ModelBundle) -> Train:
    def train(**changes: Any) -> Trained:
        values = {"batch_size": 6, "stages": STAGES, "device": "cpu", "precision": "fp32", "threads": 1}
        training = ClassifierTraining.model_validate({**values, **changes})
        network = ClassifierOptions(layers=(5,), bptt=6, max_tokens=12)
        return train_classifier(ids, vocabulary, CLASSES, language_model, network, training)

    return train


@pytest.fixture(scope="module")
def pair(train: Train) -> Trained:
    return train(seeds=[42, 43], weights=[3, 1])


@pytest.fixture(scope="module")
def alone(train: Train) -> list[Trained]:
    """Each member, trained separately."""
    return [train(seeds=[42]), train(seeds=[43])]


def probabilities(ids: pl.DataFrame, bundle: ModelBundle, split: str = "test") -> np.ndarray:
    return predict_split(ids, bundle, split=split).select("p_neg", "p_pos").to_numpy()


def test_each_member_is_the_network_of_its_seed_alone(pair: Trained, alone: list[Trained]) -> None:
    bundle, history = pair
    assert {name.split(".", 1)[0] for name in bundle.weights} == {"0", "1"}
    for member, (single, records) in enumerate(alone):
        assert bundle.member(member).keys() == single.member(0).keys()
        assert all(torch.equal(tensor, single.member(0)[name]) for name, tensor in bundle.member(member).items())
        ours = [record for record in history if record["member"] == member]
        assert ours == [record | {"member": member} for record in records]
    assert not torch.equal(bundle.weights["0.head.2.weight"], bundle.weights["1.head.2.weight"])
    assert (bundle.metrics["member_weights"], alone[0][0].metrics["member_weights"]) == ([0.75, 0.25], [1.0])


def test_probabilities_are_averaged_by_the_weights(
    pair: Trained, alone: list[Trained], train: Train, ids: pl.DataFrame
) -> None:
    first, second = (probabilities(ids, bundle) for bundle, _ in alone)
    assert np.abs(first - second).max() > 1e-3
    stored = ModelBundle.from_bytes(pair[0].to_bytes())
    np.testing.assert_allclose(probabilities(ids, stored), 0.75 * first + 0.25 * second, rtol=1e-12)
    alike = train(seeds=[42, 43])[0]
    np.testing.assert_allclose(probabilities(ids, alike), (first + second) / 2, rtol=1e-12)


def test_the_metrics_are_those_of_the_ensemble(pair: Trained, alone: list[Trained], ids: pl.DataFrame) -> None:
    bundle, _ = pair
    found = probabilities(ids, bundle, "validation")
    truth = class_codes(ids.filter(pl.col("split") == "validation"), CLASSES)
    expected = F.nll_loss(torch.from_numpy(found).log(), torch.from_numpy(truth)).item()
    assert bundle.metrics["validation_loss"] == pytest.approx(expected, rel=1e-6)
    assert bundle.metrics["validation_accuracy"] == (found.argmax(1) == truth).mean()
    assert bundle.metrics["validation_loss"] not in [single.metrics["validation_loss"] for single, _ in alone]
    assert (bundle.metrics["members"], bundle.metrics["epochs"], bundle.metrics["documents"]) == (2, 6, 24)
    assert (alone[0][0].metrics["members"], alone[0][0].metrics["epochs"]) == (1, 3)


def test_a_bundle_of_one_network_without_a_number_is_read_as_well(alone: list[Trained], ids: pl.DataFrame) -> None:
    bundle = alone[0][0]
    old = ModelBundle(bundle.kind, bundle.config, bundle.encoder, bundle.member(0))
    assert predict_split(ids, old).equals(predict_split(ids, bundle))


@pytest.mark.parametrize(
    ("report", "names"),
    [
        (2, ["member0.stage0"]),
        (9, ["member0.stage0", "member0.stage1"]),
        (13, ["member0.stage0", "member0.stage1", "member1.stage0"]),
        (20, ["member0.stage0", "member0.stage1", "member1.stage0", "member1.stage1"]),
    ],
)
def test_cut_off_in_any_member_and_resumed_it_ends_in_the_same_bits(
    report: int,
    names: list[str],
    pair: Trained,
    train: Train,
    cut_off_after: Callable[[int], AbstractContextManager[None]],
    checkpoint_folder: Path,
    n_steps: list[int],
) -> None:
    with cut_off_after(report):
        train(seeds=[42, 43], weights=[3, 1])
    done = len(n_steps)
    assert sorted(path.stem for path in checkpoint_folder.iterdir()) == names
    n_steps.clear()
    with checkpoints.checkpointing(checkpoint_folder, 3600.0):
        bundle, history = train(seeds=[42, 43], weights=[3, 1])
    assert len(n_steps) == 2 * 12 - done
    assert all(torch.equal(tensor, pair[0].weights[name]) for name, tensor in bundle.weights.items())
    assert [(r["member"], r["stage"], r["step"]) for r in history if "accuracy" in r] == [
        (member, stage, step) for member in (0, 1) for stage, step in ((0, 4), (1, 4), (1, 8))
    ]


def test_a_predictor_reads_one_member_or_several(pair: Trained, alone: list[Trained], vocabulary: Vocabulary) -> None:
    texts = ["word1 word4 word5 word6", "word0 word9 word3"]
    found = [Predictor.from_bundle(bundle).predict(texts)["p_pos"].to_numpy() for bundle, _ in (pair, *alone)]
    np.testing.assert_allclose(found[0], 0.75 * found[1] + 0.25 * found[2], rtol=1e-9)
    predictor = Predictor.from_bundle(pair[0])
    explained = predictor.explain(texts[0])
    assert explained["word"].to_list() == ["word1", "word4", "word5", "word6"]
    assert explained["exact"].all()
    document = np.array(vocabulary.ids(["xxbos", "word1", "word4", "word5", "word6"]))
    without = document.copy()
    without[1] = vocabulary.unknown
    label = int(predictor.probabilities([document])[0].argmax())
    change = -np.diff(log_odds(predictor.probabilities([document, without]), label))[0]
    assert explained["influence"][0] == pytest.approx(change, rel=1e-6)


def test_the_estimate_of_an_ensemble_is_the_slope_of_its_log_odds(pair: Trained, vocabulary: Vocabulary) -> None:
    network, *_ = load_classifier(pair[0])
    ids = np.array(vocabulary.ids(["xxbos", "word1", "word4", "word5", "word6"]))  # within a chunk: no border ends it
    estimate = estimate_ensemble_occlusion(network, vocabulary.unknown, ids, 1)
    step, slopes = 1e-2, []
    for token in ids:  # each stands once: a row of the table is a position of the document
        ends = []
        for way in (step, -step):
            moved, *_ = load_classifier(pair[0])
            for member in moved.members:
                table = member.encoder.embedding.weight.data
                table[token] += way * (table[vocabulary.unknown] - table[token])
            ends.append(log_odds(class_probabilities(moved, [ids]), 1)[0])
        slopes.append((ends[1] - ends[0]) / (2 * step))
    np.testing.assert_allclose(estimate, slopes, rtol=0.02, atol=1e-4)
    single = [estimate_occlusion(member, vocabulary.unknown, ids, 1) for member in network.members]
    assert not np.allclose(estimate, 0.75 * single[0] + 0.25 * single[1], rtol=0.02)  # no mere mean


def test_an_estimate_of_sure_members_is_finite(pair: Trained, vocabulary: Vocabulary) -> None:
    network, *_ = load_classifier(pair[0])
    for member in network.members:
        member.head[-1].bias.data += torch.tensor([-500.0, 500.0])  # type: ignore[operator, union-attr]
    ids = np.array(vocabulary.ids(["xxbos", "word1", "word4"]))
    assert np.isfinite(estimate_ensemble_occlusion(network, vocabulary.unknown, ids, 1)).all()
