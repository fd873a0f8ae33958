"""Losses by hand: entropies, smoothed labels, class weights as repeated rows, several targets as a sum."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from embedline.errors import DataError
from embedline.pipelines.tabular.losses import class_weights, make_loss
from embedline.pipelines.tabular.options import TableTraining
from embedline.pipelines.tabular.targets import CategoryMap, ClassTarget, NumericTarget

GRADE = ClassTarget(column="grade", levels=CategoryMap(kind="string", levels=("a", "b", "c")), counts=(6, 3, 1))
PASSED = ClassTarget(column="passed", levels=CategoryMap(kind="boolean", levels=(False, True)), counts=(4, 6))
PRICE = NumericTarget(column="price", transform="log", mean=1.0, std=0.5, maximum=3.0)
SIZE = NumericTarget(column="size", transform="none", mean=0.0, std=10.0, maximum=30.0)


def _training(**changes: Any) -> TableTraining:
    return TableTraining.model_validate({"epochs": 1, "batch_size": 4, "lr": 0.1, **changes})


def _logits(n_rows: int = 10, n_classes: int = 3) -> torch.Tensor:
    return torch.randn(n_rows, n_classes, generator=torch.Generator().manual_seed(1))


def test_the_entropy_of_known_probabilities() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]).log()
    loss = make_loss([GRADE], _training())
    assert loss(logits, torch.tensor([0, 1])).item() == pytest.approx((math.log(2) + math.log(10)) / 2)


def test_smoothed_labels_give_every_class_its_share() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.25]]).log()
    loss = make_loss([GRADE], _training(label_smoothing=0.3))
    # 0.7 + 0.1 on the actual class, 0.1 on each other
    assert loss(logits, torch.tensor([0])).item() == pytest.approx(0.8 * math.log(2) + 0.2 * math.log(4))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_class_of_the_weight_two_counts_as_each_row_twice(smoothing: float) -> None:
    classes = torch.tensor([0] * 6 + [1] * 3 + [2])
    assert tuple(torch.bincount(classes).tolist()) == GRADE.counts
    logits = _logits().requires_grad_()
    weights = {"b": 2.0, "c": 5.0}
    value = make_loss([GRADE], _training(class_weights=weights, label_smoothing=smoothing))(logits, classes)
    value.backward()
    repeated = _logits().requires_grad_()
    rows = torch.tensor([*range(6), *[6, 7, 8] * 2, *[9] * 5])
    shifted = repeated + torch.tensor([1.0, 2.0, 5.0]).log()  # the shares that the weighted classes have
    expected = F.cross_entropy(shifted[rows], classes[rows], label_smoothing=smoothing)
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(logits.grad, repeated.grad)


def test_a_rows_weight_does_not_depend_on_its_batch() -> None:
    loss = make_loss([GRADE], _training(class_weights="balanced"))
    logits, classes = _logits(), torch.tensor([0] * 6 + [1] * 3 + [2])
    terms = [loss(logits[rows], classes[rows]).item() for rows in (slice(0, 5), slice(5, 10))]
    assert sum(terms) / 2 == pytest.approx(loss(logits, classes).item(), rel=1e-6)


def test_balanced_classes_weigh_the_same_together() -> None:
    weights = class_weights(GRADE, _training(class_weights="balanced"), alone=True)
    assert weights is not None
    assert weights.tolist() == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    assert (weights * np.array(GRADE.counts)).tolist() == pytest.approx([10 / 3] * 3)


def test_weights_are_found_by_the_class_or_by_target_and_class() -> None:
    plain = class_weights(PASSED, _training(class_weights={True: 3.0}), alone=True)
    nested = class_weights(PASSED, _training(class_weights={"passed": {True: 3.0}}), alone=True)
    of_several = class_weights(PASSED, _training(class_weights={"passed": {True: 3.0}}), alone=False)
    for weights in (plain, nested, of_several):
        assert weights is not None
        assert weights.tolist() == [1.0, 3.0]
    assert class_weights(GRADE, _training(class_weights={"passed": "balanced"}), alone=False) is None
    assert class_weights(GRADE, _training(), alone=True) is None


def test_the_loss_of_several_targets_is_the_sum_of_theirs() -> None:
    targets = [PRICE, GRADE, SIZE, PASSED]
    training = _training(loss="l1", class_weights={"grade": {"c": 4.0}}, target_weights={"passed": 0.5, "size": 3.0})
    output = torch.randn(7, 1 + 3 + 1 + 2, generator=torch.Generator().manual_seed(2))
    price, size = torch.linspace(0, 1, 7), torch.linspace(-5, 5, 7)
    grade, passed = torch.tensor([0, 1, 2, 0, 1, 2, 0]), torch.tensor([1, 0, 0, 1, 1, 0, 1])
    target = torch.stack([price, grade.float(), size, passed.float()], dim=1)
    alone = _training(loss="l1", class_weights={"c": 4.0})
    terms = [
        (output[:, 0] - price).abs().mean() / 0.5,
        make_loss([GRADE], alone)(output[:, 1:4], grade),
        3.0 * (output[:, 4] - size).abs().mean() / 10.0,
        0.5 * F.cross_entropy(output[:, 5:7], passed),
    ]
    assert make_loss(targets, training)(output, target).item() == pytest.approx(sum(p.item() for p in terms), rel=1e-6)


def test_a_single_target_has_its_weight_too() -> None:
    logits, classes = _logits(), torch.zeros(10, dtype=torch.long)
    twice = make_loss([GRADE], _training(target_weights={"grade": 2.0}))(logits, classes)
    assert twice.item() == pytest.approx(2 * F.cross_entropy(logits, classes).item())


@pytest.mark.parametrize(
    ("targets", "changes", "message"),
    [
        ([GRADE], {"class_weights": {"d": 2.0}}, r"class_weights names \['d'\], no classes of 'grade'; .*a, b, c"),
        ([GRADE, PASSED], {"class_weights": {"a": 2.0}}, r"class_weights names \['a'\]; .* \['grade', 'passed'\]"),
        ([GRADE, PASSED], {"class_weights": {"grade": 2.0}}, "class_weights of 'grade' must be balanced or {class:"),
        ([GRADE], {"class_weights": {"a": {"b": 1.0}}}, "class_weights of 'grade' must be balanced or {class:"),
        ([PRICE], {"class_weights": "balanced"}, r"training.class_weights is for classes, .*columns.classes"),
        ([PRICE], {"label_smoothing": 0.1}, r"training.label_smoothing is for classes, but the targets \['price'\]"),
        ([PRICE], {"target_weights": {"prise": 1.0}}, r"target_weights names \['prise'\]; the targets are \['price'\]"),
        ([GRADE, SIZE], {"loss": "relative"}, r"training.loss 'relative' needs .*target_transform: log for 'size'"),
    ],
)
def test_settings_that_do_not_fit_the_targets_are_named(
    targets: list[Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        make_loss(targets, _training(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing\n.*less than 1"),
        ({"class_weights": {"a": 0.0}}, "greater than 0"),
        ({"class_weights": "even"}, "'balanced'"),
        ({"target_weights": {"a": -1.0}}, "target_weights.a\n.*greater than 0"),
        ({"smoothing": 0.1}, "smoothing\n.*Extra inputs"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        _training(**changes)
