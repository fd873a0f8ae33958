"""Simulated incomes: layout, determinism, and the true effects that they follow."""

import hashlib
import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from embedline.pipelines.adult import simulator
from embedline.pipelines.adult.files import read_table
from embedline.pipelines.adult.nodes import acquire

OPTIONS = simulator.GeneratorOptions()
PERSON: dict[str, Any] = {"age": 38, "education_num": 10, "marital_status": "Divorced", "occupation": "Adm-clerical"}
PERSON |= {"hours_per_week": 40, "capital_gain": 0, "capital_loss": 0}


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    options = simulator.GeneratorOptions(n_data=20_000, n_test=10_000)
    return read_table(acquire("generated", verify=True, generator=options))


EFFECTS = [("age", 38, 0.0), ("age", 28, -0.5), ("age", 55, 0.85), ("age", 65, 0.35), ("education_num", 13, 0.99)]
EFFECTS += [("marital_status", "Married-civ-spouse", 2.2), ("marital_status", "Married-AF-spouse", 0.0)]
EFFECTS += [("occupation", "Exec-managerial", 1.0), ("occupation", None, -0.2), ("hours_per_week", 60, 0.6)]
EFFECTS += [("capital_gain", 3000, 2.5 * math.log(2)), ("capital_gain", 99_999, 2.5 * math.log(1 + 33.333))]
EFFECTS += [("capital_loss", 1000, 1.2 * math.log(2))]


@pytest.mark.parametrize(("name", "value", "effect"), EFFECTS)
def test_each_effect(name: str, value: Any, effect: float) -> None:
    frame = pl.DataFrame([PERSON | {name: value}], schema_overrides={"occupation": pl.String})
    assert simulator.log_odds(frame)[0] == pytest.approx(-3.2 + effect, abs=1e-6)


def test_accuracy_and_log_loss_by_hand() -> None:
    odds = np.array([0.0, math.log(3), -math.log(9)])
    assert simulator.probability(odds).tolist() == pytest.approx([0.5, 0.75, 0.1])
    assert simulator.expected_accuracy(odds) == pytest.approx((0.5 + 0.75 + 0.9) / 3)
    entropies = [-sum(p * math.log(p) for p in (q, 1 - q)) for q in (0.5, 0.75, 0.1)]
    assert simulator.expected_log_loss(odds) == pytest.approx(sum(entropies) / 3)
    assert simulator.expected_log_loss(np.array([800.0, -800.0])) == 0.0


def test_the_quirks_of_the_files() -> None:
    files = simulator.generate_files(OPTIONS)
    assert list(files) == ["adult.data", "adult.test"]
    data, test = (content.decode().split("\n") for content in files.values())
    assert test[0] == "|1x3 Cross validator" and data[-2:] == test[-2:] == ["", ""]
    assert len(data) == 3002 and len(test) == 1503
    assert {line.rsplit(", ")[-1] for line in data[:-2]} == {"<=50K", ">50K"}
    assert {line.rsplit(", ")[-1] for line in test[1:-2]} == {"<=50K.", ">50K."}
    assert {line.count(", ") for line in data[:-2] + test[1:-2]} == {14}
    assert any(", ?, " in line for line in data)


def test_equal_options_give_equal_bytes_and_the_files_are_drawn_apart() -> None:
    files = simulator.generate_files(OPTIONS)
    assert simulator.generate_files(simulator.GeneratorOptions()) == files
    digest = hashlib.sha256(files["adult.data"] + files["adult.test"]).hexdigest()
    assert digest[:16] == "d2cc070ce66e802a", "the generated incomes have changed: so will every result on them"
    more = simulator.generate_files(simulator.GeneratorOptions(n_data=3500))
    assert more["adult.test"] == files["adult.test"] and more["adult.data"] != files["adult.data"]
    other = simulator.generate_files(simulator.GeneratorOptions(seed=1))
    assert other["adult.data"] != files["adult.data"] and other["adult.test"] != files["adult.test"]


def test_people_are_like_the_originals(table: pl.DataFrame) -> None:
    share = (table["income"] == ">50K").mean()
    assert 0.22 < share < 0.27  # type: ignore[operator]
    nulls = {name: count / len(table) for name, count in table.null_count().row(0, named=True).items() if count}
    assert set(nulls) == {"workclass", "occupation", "native_country"}
    assert nulls["workclass"] == nulls["occupation"] == pytest.approx(0.06, abs=0.005)
    assert table.filter(pl.col("workclass").is_null() != pl.col("occupation").is_null()).is_empty()
    assert (table["education"] == pl.Series(simulator.EDUCATION).gather(table["education_num"] - 1)).all()
    married = table.filter(pl.col("marital_status") == "Married-civ-spouse")
    assert set(married.select("sex", "relationship").unique().rows()) == {("Male", "Husband"), ("Female", "Wife")}
    gains = table.filter(pl.col("capital_gain") > 0)["capital_gain"]
    assert len(gains) / len(table) == pytest.approx(0.083, abs=0.005) and gains.max() == 99_999
    assert gains.median() == pytest.approx(6000, rel=0.05) and gains.mean() > 1.4 * 6000  # type: ignore[operator]
    assert table["age"].min() == 17 and table["age"].max() <= 90  # type: ignore[operator]
    assert set(table["occupation"].drop_nulls()) == set(simulator.OCCUPATIONS) and simulator.NO_OCCUPATION == -0.2


def test_incomes_follow_the_true_effects(table: pl.DataFrame) -> None:
    """In each tenth of the rows by their odds, as many are rich as the true effects say, within 4 standard errors."""
    odds = simulator.log_odds(table)
    is_rich = (table["income"] == ">50K").to_numpy()
    p = simulator.probability(odds)
    for part in np.array_split(np.argsort(odds), 10):
        error = math.sqrt(float(np.sum(p[part] * (1 - p[part])))) / len(part)
        assert abs(is_rich[part].mean() - p[part].mean()) < 4 * error


def test_what_a_perfect_model_reaches() -> None:
    large = simulator.GeneratorOptions(n_test=20_000)
    accuracy = simulator.bayes_accuracy(large)
    assert 0.82 < accuracy < 0.85
    assert abs(simulator.perfect_accuracy(large) - accuracy) < 4 * math.sqrt(accuracy * (1 - accuracy) / 20_000)
    test = read_table(simulator.generate_files(large)).filter(pl.col("file") == "test")
    p = simulator.probability(simulator.log_odds(test))
    losses = -np.where(test["income"] == ">50K", np.log(p), np.log1p(-p))
    assert abs(losses.mean() - simulator.bayes_log_loss(large)) < 4 * losses.std() / math.sqrt(20_000)
    assert simulator.bayes_accuracy(OPTIONS) == pytest.approx(0.839535, abs=1e-6)
    assert simulator.perfect_accuracy(OPTIONS) == pytest.approx(0.845333, abs=1e-6)


def test_options_that_make_no_sense() -> None:
    for options in ({"n_data": 19}, {"n_test": 0}, {"seed": -1}, {"rows": 5}):
        with pytest.raises(ValidationError, match=f"{next(iter(options))}\n.*(greater than or equal|Extra inputs)"):
            simulator.GeneratorOptions(**options)
