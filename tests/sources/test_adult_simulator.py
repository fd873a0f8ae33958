"""Simulated incomes: layout, determinism, and the true effects that they follow."""

import hashlib
import math
from typing import Any

import numpy as np
import polars as pl
import pytest

from embedline.pipelines.adult import simulator

OPTIONS = simulator.GeneratorOptions()
PERSON: dict[str, Any] = {"age": 38, "education_num": 10, "marital_status": "Divorced", "occupation": "Adm-clerical"}
PERSON |= {"hours_per_week": 40, "capital_gain": 0, "capital_loss": 0}


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
