"""Accumulation, early stopping and range tests of both text networks, and their resume."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import torch.nn.functional as F

from embedline.errors import DataError
from embedline.pipelines.text import fine_tuning
from embedline.pipelines.text.classifier import predict_split
from embedline.pipelines.text.evaluation import class_codes
from embedline.pipelines.text.fine_tuning import find_classifier_rate, train_classifier
from embedline.pipelines.text.language_model import (
    build_language_model,
    evaluator,
    find_language_model_rate,
    load_language_model,
    train_language_model,
)
from embedline.pipelines.text.lm_batches import Corpus, LanguageModelBatches
from embedline.pipelines.text.options import (
    ClassifierOptions,
    ClassifierTraining,
    LanguageModelOptions,
    LanguageModelTraining,
)
from embedline.pipelines.text.tokenizer import TokenOptions
from embedline.pipelines.text.vocabulary import Vocabulary
from embedline.training import checkpoint as checkpoints
from embedline.training import optimizer as schedules
from embedline.training.checkpoint import Record
from embedline.training.device import make_accelerator
from embedline.training.lr_finder import RangeTest
from embedline.training.model_file import ModelBundle
from embedline.training.options import FinderOptions

NETWORK = LanguageModelOptions(embedding_size=6, hidden_size=9, n_layers=2)
HEAD, ALL = {"unfrozen": 1, "epochs": 4, "lr": 0.3}, {"unfrozen": None, "epochs": 4, "lr": 0.3}
# A rate that is far too high: the loss on held-out text rises before the training is over.
HASTY = {"lr": 0.3, "epochs": 8, "schedule": "constant", "early_stopping": {"patience": 2}}
TOOLS = {"accumulate": 2, "random_bptt": True, "averaging": {"decay": 0.5}, "clip_norm": 0.3}

Trained = tuple[ModelBundle, list[Record]]
Cut = Callable[[int], AbstractContextManager[None]]


def language_training(**changes: Any) -> LanguageModelTraining:
    values = {"batch_size": 4, "epochs": 2, "lr": 0.01, "bptt": 10, "device": "cpu", "precision": "fp32", "threads": 1}
    return LanguageModelTraining.model_validate({**values, **changes})


def train_language(ids: pl.DataFrame, vocabulary: Vocabulary, **changes: Any) -> Trained:
    network = changes.pop("network", NETWORK)
    return train_language_model(ids, vocabulary, TokenOptions(workers=1), network, language_training(**changes))


def classifier_training(**changes: Any) -> ClassifierTraining:
    values = {"batch_size": 6, "stages": [HEAD, ALL], "device": "cpu", "precision": "fp32", "threads": 1}
    return ClassifierTraining.model_validate({**values, **changes})


Classify = Callable[..., Trained]


@pytest.fixture(scope="module")
def classify(ids: pl.DataFrame, vocabulary: Vocabulary, language_model: ModelBundle) -> Classify:
    def classify(documents: pl.DataFrame = ids, **changes: Any) -> Trained:
        network = ClassifierOptions(layers=5, bptt=6, max_tokens=12)  # type: ignore[arg-type]
        return train_classifier(
            documents, vocabulary, ["neg", "pos"], language_model, network, classifier_training(**changes)
        )

    return classify


def assert_same(first: Trained, second: Trained) -> None:
    ours, theirs = first[0].weights, second[0].weights
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert first[1] == second[1]


def monitored(history: list[Record], **which: int) -> list[float]:
    """The monitored metric at the end of each epoch, from the records."""
    rows = [record for record in history if all(record[name] == value for name, value in which.items())]
    return [record["monitor"] for record in rows if "monitor" in record]


def test_a_step_of_a_language_model_reads_on_through_its_batches(ids: pl.DataFrame, vocabulary: Vocabulary) -> None:
    network = NETWORK.model_copy(update={"drop_mult": 0.0})
    options = language_training(accumulate=5, random_bptt=True, epochs=1, alpha=0.5, clip_norm=0.2, weight_decay=0.1)
    bundle, history = train_language(ids, vocabulary, network=network, **options.model_dump(exclude_unset=True))
    torch.manual_seed(options.seed)
    model = build_language_model(bundle.config).train()
    task = LanguageModelBatches(
        Corpus.of(ids.filter(pl.col("split").is_in(["train", "unlabelled"]))), options, device=torch.device("cpu")
    )
    task.begin_epoch(torch.Generator().manual_seed(options.seed))
    matrices, vectors = ([p for p in model.parameters() if (p.ndim > 1) is wanted] for wanted in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, eps=options.eps)
    steps = [range(at, min(at + 5, task.n_batches)) for at in range(0, task.n_batches, 5)]
    assert len(steps[-1]) < 5 and len({task.rate(index) for index in range(task.n_batches)}) > 1
    losses = []
    for step, batches in enumerate(steps):
        found = [task.loss(model, index, nullcontext) for index in batches]
        factor = sum(task.rate(index) for index in batches) / len(batches)
        for group in optimizer.param_groups:
            group["lr"] = schedules.learning_rate(options, step / len(steps)) * factor
            group["betas"] = (schedules.momentum(options, step / len(steps)), 0.99)
        optimizer.zero_grad()
        torch.stack([loss.total for loss in found]).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.2)
        optimizer.step()
        losses.append(sum(loss.data_term.item() for loss in found) / len(found))
    assert [record["train_loss"] for record in history] == pytest.approx(losses, rel=1e-5)
    for name, tensor in bundle.weights.items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)


def test_a_language_model_is_that_of_its_best_epoch(ids: pl.DataFrame, vocabulary: Vocabulary) -> None:
    bundle, history = train_language(ids, vocabulary, **HASTY | {"lr": 0.1})  # at 0.3 the loss goes up and down
    losses = monitored(history)
    best = losses.index(min(losses)) + 1
    assert best > 1 and len(losses) == best + 2 < 8  # the patience
    assert (bundle.metrics["epochs"], bundle.metrics["best_epoch"]) == (len(losses), best)
    assert losses == [record["validation_loss"] for record in history if "validation_loss" in record]
    assert bundle.metrics["validation_loss"] == min(losses)
    assert "monitor" not in bundle.metrics
    model, _, _ = load_language_model(bundle)
    held_out = Corpus.of(ids.filter(pl.col("split") == "validation"))
    assert evaluator(held_out, make_accelerator(language_training()))(model)["validation_loss"] == min(losses)


@pytest.mark.parametrize("report", [1, 5, 7, 10])
def test_a_language_model_with_all_tools_is_resumed_to_the_same_bits(
    report: int,
    ids: pl.DataFrame,
    vocabulary: Vocabulary,
    cut_off_after: Cut,
    checkpoint_folder: Path,
    n_steps: list[int],
) -> None:
    whole = train_language(ids, vocabulary, **HASTY | TOOLS)
    total = len(n_steps)
    assert whole[0].metrics["best_epoch"] < whole[0].metrics["epochs"] < 8
    with cut_off_after(report):
        train_language(ids, vocabulary, **HASTY | TOOLS)
    step = len(n_steps) - total
    n_steps.clear()
    with checkpoints.checkpointing(checkpoint_folder, 3600.0):
        resumed = train_language(ids, vocabulary, **HASTY | TOOLS)
        assert len(n_steps) == total - step
        assert_same(resumed, whole)
        assert_same(train_language(ids, vocabulary, **HASTY | TOOLS), whole)  # over: nothing is trained again
    assert len(n_steps) == total - step
    assert resumed[0].metrics["best_epoch"] == whole[0].metrics["best_epoch"]


def test_each_stage_of_a_classifier_ends_early_and_hands_its_best_network_on(
    classify: Classify, ids: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[dict[str, torch.Tensor]] = []
    real = fine_tuning.train

    def spy(network: torch.nn.Module, *arguments: Any, **settings: Any) -> Any:
        starts.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return real(network, *arguments, **settings)

    monkeypatch.setattr(fine_tuning, "train", spy)
    bundle, history = classify(early_stopping={"patience": 1}, schedule="constant")
    first, second = (monitored(history, stage=stage) for stage in (0, 1))
    assert min(first) < first[-1] and min(second) < second[-1]
    assert bundle.metrics["epochs"] == len(first) + len(second) < 8
    assert bundle.metrics["validation_loss"] == min(second)
    alone, _ = classify(stages=[HEAD], early_stopping={"patience": 1}, schedule="constant")
    assert starts[1].keys() == alone.member(0).keys()
    assert all(torch.equal(tensor, starts[1][name]) for name, tensor in alone.member(0).items())
    held_out = predict_split(ids, bundle, split="validation")
    truth = torch.from_numpy(class_codes(ids.filter(pl.col("split") == "validation"), ["neg", "pos"]))
    logs = torch.from_numpy(held_out.select("p_neg", "p_pos").to_numpy()).log()
    assert F.nll_loss(logs, truth).item() == pytest.approx(min(second), rel=1e-6)


@pytest.mark.parametrize(("report", "stage"), [(2, 0), (5, 0), (8, 0), (9, 1), (10, 1)])
def test_a_classifier_with_all_tools_is_resumed_to_the_same_bits(
    report: int, stage: int, classify: Classify, cut_off_after: Cut, checkpoint_folder: Path, n_steps: list[int]
) -> None:
    changes = {"early_stopping": {"patience": 1}, "schedule": "constant", "accumulate": 3, "averaging": {"decay": 0.3}}
    changes["stages"] = [HEAD | {"lr": 0.5}, ALL | {"lr": 0.5}]  # the second ends early
    whole = classify(**changes)
    total = len(n_steps)
    assert total == 2 * whole[0].metrics["epochs"] < 16  # four batches an epoch: a step of three, a step of one
    with cut_off_after(report):
        classify(**changes)
    done = len(n_steps) - total
    assert sorted(path.name for path in checkpoint_folder.iterdir()) == [f"stage{n}.pt" for n in range(stage + 1)]
    n_steps.clear()
    with checkpoints.checkpointing(checkpoint_folder, 3600.0):
        assert_same(classify(**changes), whole)
    assert len(n_steps) == total - done


def test_early_stopping_needs_a_part_to_go_by_and_says_which_key_to_mend(
    classify: Classify, ids: pl.DataFrame, vocabulary: Vocabulary
) -> None:
    bare = ids.filter(pl.col("split") != "validation")
    fault = r"\.early_stopping needs documents of the split 'validation': set split.validation above 0$"
    with pytest.raises(DataError, match=f"^language_model_training{fault}"):
        train_language(bare, vocabulary, early_stopping={})
    with pytest.raises(DataError, match=f"^classifier_training{fault}"):
        classify(documents=bare, early_stopping={})


FINDER = FinderOptions(low=1e-4, high=10.0, steps=40)


def test_a_range_test_of_a_language_model_starts_from_its_loss_and_ends_where_it_diverges(
    ids: pl.DataFrame, vocabulary: Vocabulary
) -> None:
    training = language_training()
    test = find_language_model_rate(ids, vocabulary, NETWORK, training, FINDER)
    assert test.losses[0] == pytest.approx(train_language(ids, vocabulary)[1][0]["train_loss"])  # the same first batch
    assert test.suggestion in test.rates
    assert 1e-4 < test.suggestion < 1.0
    torch.rand(3)  # whatever else draws from the shared numbers
    before = torch.get_rng_state()
    assert find_language_model_rate(ids, vocabulary, NETWORK, training, FINDER) == test
    assert torch.equal(torch.get_rng_state(), before)
    other = language_training(accumulate=2, seed=3)
    assert find_language_model_rate(ids, vocabulary, NETWORK, other, FINDER) != test


def test_a_range_test_never_reads_the_parts_that_are_measured(ids: pl.DataFrame, vocabulary: Vocabulary) -> None:
    learned = ids.filter(pl.col("split").is_in(["train", "unlabelled"]))
    found = [
        find_language_model_rate(frame, vocabulary, NETWORK, language_training(), FINDER) for frame in (ids, learned)
    ]
    assert found[0] == found[1]


def test_a_range_test_of_a_classifier_is_one_of_its_first_stage(
    ids: pl.DataFrame, vocabulary: Vocabulary, language_model: ModelBundle, classify: Classify
) -> None:
    network = ClassifierOptions(layers=(5,), bptt=6, max_tokens=12)

    def find(**changes: Any) -> RangeTest:
        training = classifier_training(**changes)
        return find_classifier_rate(ids, vocabulary, ["neg", "pos"], language_model, network, training, FINDER)

    test = find()
    assert test.losses[0] == pytest.approx(classify()[1][0]["train_loss"])
    assert test.suggestion in test.rates
    head_alone = find(stages=[HEAD])
    assert head_alone == test
    assert find(stages=[ALL]).losses[0] == test.losses[0]
    assert find(stages=[ALL]).losses[1:] != test.losses[1:]
    assert find(seeds=[43, 42]).losses[0] != test.losses[0]


def test_too_little_text_for_a_range_test_is_refused(ids: pl.DataFrame, vocabulary: Vocabulary) -> None:
    with pytest.raises(DataError, match="tokens do not fill 4000 rows of 2 tokens: take a smaller batch_size"):
        find_language_model_rate(ids, vocabulary, NETWORK, language_training(batch_size=4000), FINDER)
