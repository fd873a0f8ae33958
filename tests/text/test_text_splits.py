"""Validation documents: exact counts for each class, independent of the order of the rows."""

import polars as pl
import pytest

from embedline.errors import DataError
from embedline.pipelines.text.documents import SplitOptions, assign_splits


def documents(counts: dict[str, int], test: int = 3, unlabelled: int = 2) -> pl.DataFrame:
    labels = [label for label, count in counts.items() for _ in range(count)]
    n = len(labels)
    return pl.DataFrame(
        {
            "document_id": [f"d{number:03}" for number in range(n + test + unlabelled)],
            "label": labels + ["pos"] * test + [None] * unlabelled,
            "split": ["train"] * n + ["test"] * test + ["unlabelled"] * unlabelled,
        },
        schema={"document_id": pl.String, "label": pl.String, "split": pl.String},
    )


def held_out(frame: pl.DataFrame, split: SplitOptions) -> dict[str, int]:
    splits = assign_splits(frame, split)
    return dict(frame.filter(splits == "validation").group_by("label").len().sort("label").rows())


def test_the_same_fraction_of_every_class_and_no_test_row() -> None:
    frame = documents({"neg": 70, "pos": 30})
    splits = assign_splits(frame, SplitOptions(validation=0.1))
    assert held_out(frame, SplitOptions(validation=0.1)) == {"neg": 7, "pos": 3}
    assert splits.name == "split" and splits.dtype == pl.String
    assert splits[-5:].to_list() == ["test"] * 3 + ["unlabelled"] * 2
    assert splits[:100].value_counts().sort("split").rows() == [("train", 90), ("validation", 10)]


def test_remainders_go_to_the_largest() -> None:
    # 0.25 * (5, 6, 9) = 1.25, 1.5, 2.25: five in all, and the second has the largest remainder.
    assert held_out(documents({"a": 5, "b": 6, "c": 9}), SplitOptions(validation=0.25)) == {"a": 1, "b": 2, "c": 2}


def test_small_classes_have_one_document_in_each_split() -> None:
    assert held_out(documents({"a": 2, "b": 98}), SplitOptions(validation=0.1)) == {"a": 1, "b": 10}
    assert held_out(documents({"a": 2, "b": 98}), SplitOptions(validation=0.9)) == {"a": 1, "b": 88}


def test_order_of_rows_does_not_matter_and_the_seed_does() -> None:
    frame = documents({"neg": 40, "pos": 40})
    split = SplitOptions(validation=0.25, seed=3)
    chosen = set(frame.filter(assign_splits(frame, split) == "validation")["document_id"])
    shuffled = frame.sample(fraction=1.0, shuffle=True, seed=1)
    assert set(shuffled.filter(assign_splits(shuffled, split) == "validation")["document_id"]) == chosen
    assert len(chosen) == 20
    other = set(
        frame.filter(assign_splits(frame, SplitOptions(validation=0.25, seed=4)) == "validation")["document_id"]
    )
    assert other != chosen


def test_the_draw_is_spread() -> None:
    frame = documents({"a": 1000}, test=0, unlabelled=0)
    rows = assign_splits(frame, SplitOptions(validation=0.2)).eq("validation").arg_true()
    assert len(rows) == 200
    assert 450 < rows.mean() < 550  # 499.5 expected, 17.6 its standard deviation


@pytest.mark.parametrize(
    ("frame", "fraction", "message"),
    [
        (documents({"a": 5, "b": 1}), 0.1, "class 'b' has 1 training document"),
        (documents({"a": 2, "b": 2}), 0.1, "split.validation 0.1 of 4 training documents leaves none for validation"),
        (documents({"a": 2, "b": 2}), 0.9, "split.validation 0.9 of 4 training documents leaves none for training"),
        (documents({}), 0.1, "no document is in the split 'train'"),
        (
            documents({"a": 5}).with_columns(document_id=pl.lit("x")),
            0.2,
            "document 'x' occurs 10 times",
        ),
        (documents({"a": 5}).with_columns(split=pl.lit("dev")), 0.2, "document 'd000' has the split 'dev'"),
        (documents({"a": 5}).with_columns(split=pl.lit(None, pl.String)), 0.2, "document 'd000' has the split None"),
        (documents({"a": 5}).with_columns(split=pl.lit("train")), 0.2, "document 'd008' is in the split 'train'"),
    ],
)
def test_documents_that_cannot_be_split_are_named(frame: pl.DataFrame, fraction: float, message: str) -> None:
    with pytest.raises(DataError, match=message):
        assign_splits(frame, SplitOptions(validation=fraction))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_fractions_lie_between_none_and_all(fraction: float) -> None:
    with pytest.raises(ValueError, match="validation"):
        SplitOptions(validation=fraction)
