"""The table learner at its defaults against LightGBM, a linear model, CatBoost and RealMLP at theirs, on nine tables.

    python tests/benchmarks/bench_tables.py --tables wine,noise --opponents catboost,realmlp --output tables.json
    python tests/benchmarks/bench_tables.py --tables friedman,clusters,rules,waves,rare --network '{"members": 4}'

The tables are scikit-learn's diabetes, wine, breast cancer and digits, Adult (by ``--adult PATH`` of its archive), and
four that are drawn: additive and interacting effects, 40 categories of up to 50,000 levels with a rare class, and pure
noise. The second command tries settings on five further tables. Small tables have 5 folds twice, Adult its own test
part, the table of many levels a random quarter. All models see the same rows; differences have 95 % intervals of the
paired bootstrap over rows. CatBoost and RealMLP need ``pip install catboost pytabkit``.
"""

import argparse
import json
import time
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from embedline.pipelines.tabular import defaults
from embedline.pipelines.tabular.columns import Columns, Split
from embedline.pipelines.tabular.cross_validation import cross_validate, held_out_predictions
from embedline.pipelines.tabular.options import BaselineOptions, EncodingOptions, NetworkOptions, TableTraining
from embedline.pipelines.tabular.predictions import read_prediction, row_losses
from embedline.pipelines.tabular.splits import assign_splits, fold_rows
from embedline.pipelines.tabular.targets import fit_target
from embedline.training.metrics import paired_difference

ADULT = (
    "age workclass fnlwgt education education_num marital_status occupation relationship race sex capital_gain "
    "capital_loss hours_per_week native_country target"
).split()
TWICE_FIVE, FIVE = (Split(kind="folds", n=5, repeats=repeats) for repeats in (2, 1))


@dataclass(frozen=True)
class Table:
    """A frame with the column ``target``, how rows are held out, and the mean loss of the law that drew it."""

    frame: pl.DataFrame
    split: Split
    floor: float | None = None

    @property
    def columns(self) -> Columns:
        """Text is categorical, numbers are continuous, whole targets are classes."""
        inputs = [name for name in self.frame.columns if name not in ("target", "held_out")]
        text = [name for name in inputs if self.frame.schema[name] == pl.String]
        classes = () if self.frame.schema["target"].is_float() else ("target",)
        numbers = tuple(name for name in inputs if name not in text)
        return Columns(categorical=tuple(text), continuous=numbers, target="target", classes=classes)


def from_sklearn(name: str) -> Table:
    """One of scikit-learn's tables."""
    from sklearn import datasets

    loaded = getattr(datasets, f"load_{name}")(as_frame=True)
    target = loaded.target.astype(float if name == "diabetes" else int)
    return Table(pl.from_pandas(loaded.data).with_columns(target=pl.Series(target.to_numpy())), TWICE_FIVE)


def additive(n_rows: int = 6_000) -> Table:
    """Smooth effects of single variables and of levels, and noise of 0.7."""
    random = np.random.default_rng(0)
    x = random.normal(size=(n_rows, 8))
    kind, shape = random.integers(0, 30, n_rows), random.integers(0, 6, n_rows)
    target = np.sin(2 * x[:, 0]) + 0.5 * x[:, 1] + np.abs(x[:, 2]) + random.normal(size=30)[kind]
    target = target + random.normal(size=6)[shape] + 0.7 * random.normal(size=n_rows)
    frame = pl.DataFrame(x, schema=[f"x{k}" for k in range(8)])
    texts = {"kind": [f"k{k}" for k in kind], "shape": [f"s{k}" for k in shape]}
    return Table(frame.with_columns(**{k: pl.Series(v) for k, v in texts.items()}, target=target), TWICE_FIVE, 0.49)


def interactions(n_rows: int = 6_000) -> Table:
    """Two classes by products of variables, whose weights differ by kind."""
    random = np.random.default_rng(1)
    x = random.uniform(-1, 1, size=(n_rows, 8))
    kind, weights = random.integers(0, 8, n_rows), random.normal(size=(8, 3))
    score = 2.5 * np.sign(x[:, 0]) * x[:, 1] + 3 * weights[kind, 0] * x[:, 2]
    score = 1.5 * (score + 2 * x[:, 3] * x[:, 4] * weights[kind, 1] + weights[kind, 2])
    return _two_classes(pl.DataFrame(x, schema=[f"x{k}" for k in range(8)]), {"kind": kind}, score, random, TWICE_FIVE)


def noise(n_rows: int = 2_000) -> Table:
    """A target that nothing tells."""
    random = np.random.default_rng(2)
    frame = pl.DataFrame(random.normal(size=(n_rows, 10)), schema=[f"x{k}" for k in range(10)])
    codes = {"kind": random.integers(0, 300, n_rows)}
    return _two_classes(frame, codes, np.zeros(n_rows), random, TWICE_FIVE)


def many_levels(n_rows: int = 200_000, n_columns: int = 40, most_levels: int = 50_000, seed: int = 3) -> Table:
    """40 categories of 5 to 50,000 levels with normal effects on the log-odds of a class of 0.5 %."""
    random = np.random.default_rng(seed)
    score, codes = np.zeros(n_rows), {}
    for number, levels in enumerate(np.geomspace(5, most_levels, n_columns).astype(int)):
        weights = 1 / np.arange(1, levels + 1) ** 0.5
        codes[f"c{number}"] = random.choice(levels, n_rows, p=weights / weights.sum())
        score += 0.36 * random.normal(size=levels)[codes[f"c{number}"]]
    low, high = -20.0, 5.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if (1 / (1 + np.exp(-score - middle))).mean() > 0.005 else (middle, high)
    return _two_classes(pl.DataFrame(), codes, score + low, random, Split(kind="random", fraction=0.25))


def friedman(n_rows: int = 500) -> Table:
    """Friedman's first law with noise of 1."""
    from sklearn.datasets import make_friedman1

    x, target = make_friedman1(n_rows, noise=1.0, random_state=0)
    return Table(pl.DataFrame(x, schema=[f"x{k}" for k in range(10)]).with_columns(target=pl.Series(target)), FIVE, 1.0)


def clusters(n_rows: int = 300) -> Table:
    """Three classes around corners of a cube in 5 of 20 variables."""
    from sklearn.datasets import make_classification

    settings = {"n_features": 20, "n_informative": 5, "n_redundant": 3, "n_classes": 3, "flip_y": 0.05}
    x, target = make_classification(n_rows, random_state=0, **settings)
    return Table(pl.DataFrame(x, schema=[f"x{k}" for k in range(20)]).with_columns(target=pl.Series(target)), FIVE)


def rules(n_rows: int = 5_000) -> Table:
    """Two classes by thresholds of numbers that differ by kind."""
    random = np.random.default_rng(10)
    x, kind = random.normal(size=(n_rows, 10)), random.integers(0, 40, n_rows)
    edges = random.normal(size=(40, 2))
    score = np.where(x[:, 0] > edges[kind, 0], 1.5, -1.5) * np.where(x[:, 1] > 0.3, 1.0, -0.6) + (x[:, 2] > 1) * 2.0
    return _two_classes(pl.DataFrame(x, schema=[f"x{k}" for k in range(10)]), {"kind": kind}, score, random, FIVE)


def waves(n_rows: int = 4_000) -> Table:
    """A number by waves of others, the effects of 300 levels, and a product, with noise of 0.5."""
    random = np.random.default_rng(11)
    x, kind = random.uniform(-2, 2, size=(n_rows, 6)), random.integers(0, 300, n_rows)
    target = np.sin(3 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.7 * random.normal(size=300)[kind] + 0.5 * x[:, 3]
    target = target + 0.5 * random.normal(size=n_rows)
    frame = pl.DataFrame(x, schema=[f"x{k}" for k in range(6)])
    return Table(frame.with_columns(kind=pl.Series([f"k{k}" for k in kind]), target=pl.Series(target)), FIVE, 0.25)


def _two_classes(
    frame: pl.DataFrame,
    codes: dict[str, NDArray[np.int64]],
    score: NDArray[np.float64],
    random: np.random.Generator,
    split: Split,
) -> Table:
    chance = 1 / (1 + np.exp(-score))
    target = (random.uniform(size=len(score)) < chance).astype(int)
    texts = {name: pl.Series([f"v{code}" for code in values]) for name, values in codes.items()}
    floor = float(-np.log(np.where(target == 1, chance, 1 - chance)).mean())
    return Table(pl.DataFrame({**frame.to_dict(), **texts, "target": target}), split, floor)


def adult(path: Path) -> Table:
    """The census incomes of UCI's archive, tested on their own test part."""
    frames = []
    with zipfile.ZipFile(path) as archive:
        for name, skipped in (("adult.data", 0), ("adult.test", 1)):
            options: dict[str, Any] = {"names": ADULT, "skipinitialspace": True, "na_values": "?"}
            frame = pd.read_csv(archive.open(name), skiprows=skipped, **options)
            frames.append(pl.from_pandas(frame).with_columns(held_out=pl.lit(bool(skipped))))
    frame = pl.concat(frames).with_columns(target=pl.col("target").str.starts_with(">").cast(pl.Int64))
    return Table(frame, Split(kind="column", column="held_out", value=True))


TABLES: dict[str, Callable[[], Table]] = {
    **{name: lambda name=name: from_sklearn(name) for name in ("wine", "diabetes", "breast_cancer", "digits")},
    "noise": noise,
    "interactions": interactions,
    "additive": additive,
    "many_levels": many_levels,
}
# On these the defaults are chosen, never on those above.
TUNING: dict[str, Callable[[], Table]] = {
    "friedman": friedman,
    "clusters": clusters,
    "rules": rules,
    "waves": waves,
    "rare": lambda: many_levels(60_000, 15, 10_000, seed=12),
}


def catboost_model(train: pd.DataFrame, target: NDArray[Any], test: pd.DataFrame, *, number: bool) -> NDArray[Any]:
    """CatBoost's defaults with its own treatment of categories."""
    import catboost

    text = [name for name in train if not pd.api.types.is_numeric_dtype(train[name])]
    train, test = (
        frame.assign(**{name: frame[name].fillna("").astype(str) for name in text}) for frame in (train, test)
    )
    kind = catboost.CatBoostRegressor if number else catboost.CatBoostClassifier
    model = kind(verbose=0, random_seed=0, cat_features=text, allow_writing_files=False).fit(train, target)
    return np.asarray(model.predict(test) if number else model.predict_proba(test))


def realmlp_model(train: pd.DataFrame, target: NDArray[Any], test: pd.DataFrame, *, number: bool) -> NDArray[Any]:
    """RealMLP with its tuned defaults (Holzmüller et al. 2024, arXiv:2407.04491)."""
    from pytabkit import RealMLP_TD_Classifier, RealMLP_TD_Regressor

    text = [name for name in train if not pd.api.types.is_numeric_dtype(train[name])]
    model = (RealMLP_TD_Regressor if number else RealMLP_TD_Classifier)(device="cpu", random_state=0, verbosity=0)
    model.fit(train, target, cat_col_names=text)
    return np.asarray(model.predict(test) if number else model.predict_proba(test))


OPPONENTS = {"catboost": catboost_model, "realmlp": realmlp_model}


def roc_auc(actual: NDArray[Any], probabilities: NDArray[np.float64]) -> float:
    """ROC-AUC of two classes' probabilities [N, 2]."""
    return float(roc_auc_score(actual, probabilities[:, 1]))


def measure(table: Table, opponents: list[str], network: dict[str, Any], training: dict[str, Any]) -> dict[str, Any]:
    """Mean loss of a row, seconds, and the difference of embedline's to each other model's with its interval."""
    columns, split = table.columns, table.split
    rows = assign_splits(nw.from_native(table.frame, eager_only=True), columns, split)
    ours = NetworkOptions.model_validate(network), TableTraining.model_validate(training)
    settings = (EncodingOptions(), *ours, BaselineOptions())
    began = time.perf_counter()
    if split.kind == "folds":
        found, costs = cross_validate(rows, columns, split, *settings)
        held_out = list(fold_rows(rows, columns, split))
    else:
        found, costs, _ = held_out_predictions(rows, columns, *settings)
        held_out = [np.flatnonzero((rows.get_column("split") == "test").to_numpy())]
    seconds = {name: cost.get("seconds", 0.0) for name, cost in costs.items()}
    seconds["embedline"] = time.perf_counter() - began - sum(seconds.values())
    target = fit_target(rows, "target", columns, EncodingOptions())
    number = not columns.classes
    frame = rows.to_native().to_pandas()
    values, inputs = frame["target"].to_numpy(), frame[[*columns.categorical, *columns.continuous]]
    predicted = nw.from_native(pl.DataFrame(found))
    actual = values[np.concatenate(held_out)]
    models = {"embedline": "", **{name: name for name in costs}}
    predictions = {name: read_prediction(predicted, target, "", baseline) for name, baseline in models.items()}
    for name in opponents:
        began = time.perf_counter()
        parts = []
        for test in held_out:
            train = np.setdiff1d(np.arange(len(values)), test)
            parts.append(OPPONENTS[name](inputs.iloc[train], values[train], inputs.iloc[test], number=number))
        seconds[name] = time.perf_counter() - began
        predictions[name] = np.concatenate(parts)
    losses = {name: row_losses(target, actual, each) for name, each in predictions.items()}
    two_classes = not number and len(np.unique(actual)) == 2
    row = np.concatenate(held_out) if split.kind == "folds" else np.arange(len(actual))
    repeats = np.bincount(row)
    by_row = {name: np.bincount(row, each)[repeats > 0] / repeats[repeats > 0] for name, each in losses.items()}
    return {
        "metric": "rmse" if number else "log_loss",
        "floor": table.floor,
        "losses": {name: float(np.sqrt(each.mean()) if number else each.mean()) for name, each in by_row.items()},
        "seconds": seconds,
        **({"roc_auc": {name: roc_auc(actual, each) for name, each in predictions.items()}} if two_classes else {}),
        "differences": {
            name: paired_difference(by_row["embedline"], each, root=number)
            for name, each in by_row.items()
            if name != "embedline"
        },
    }


def main() -> None:
    """Measure the tables, print a line a model, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", default=",".join(TABLES), help="names, separated by commas; adult needs --adult")
    parser.add_argument("--adult", type=Path, help="UCI's archive adult.zip")
    parser.add_argument("--opponents", default="", help="catboost, realmlp")
    parser.add_argument("--network", type=json.loads, default={}, help="settings in place of the defaults, as JSON")
    parser.add_argument("--training", type=json.loads, default={}, help="settings in place of the defaults, as JSON")
    parser.add_argument("--passes", type=int, help="through the training rows of larger tables")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    if arguments.passes:
        defaults.PASSES, defaults.MOST_STEPS = arguments.passes, arguments.passes * 100
    found = {}
    for name in arguments.tables.split(","):
        table = adult(arguments.adult) if name == "adult" else {**TABLES, **TUNING}[name]()
        opponents = [each for each in arguments.opponents.split(",") if each]
        result = found[name] = measure(table, opponents, arguments.network, arguments.training)
        for model in sorted(result["losses"], key=result["losses"].__getitem__):
            difference = result["differences"].get(model)
            verdict = (
                f"embedline is {difference['verdict']:13} {difference['low']:+.4f} to {difference['high']:+.4f}"
                if difference
                else ""
            )
            loss, seconds = result["losses"][model], result["seconds"][model]
            area = f"AUC {result['roc_auc'][model]:.4f}  " if "roc_auc" in result else ""
            line = f"{name:14} {model:10} {result['metric']:8} {loss:9.4f} {area}{seconds:7.1f} s  {verdict}"
            print(line, flush=True)  # noqa: T201
    if arguments.output:
        arguments.output.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
