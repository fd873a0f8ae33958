"""The estimators of `embedline.api`: scikit-learn's conventions, and the models and predictions of the pipelines."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils.estimator_checks import check_estimator

from embedline import LanguageModel, Recommender, TabularClassifier, TabularRegressor, TextClassifier
from embedline.config_loader import ConfigLoader
from embedline.errors import DataError
from embedline.serving.tables import pack_model
from embedline.training.model_file import ModelBundle
from shared import tracking_database
from small_runs import newest, run_here

N = 240
SMALL: dict[str, Any] = {
    "network": {"layers": [16], "numeric_embedding": {"kind": "piecewise_linear"}},
    "training": {"epochs": 30, "batch_size": 16, "lr": 0.01, "threads": 1},
}
LANGUAGE: dict[str, Any] = {
    "language_model": {"embedding_size": 20, "hidden_size": 30, "n_layers": 2, "drop_mult": 0.2},
    "language_model_training": {"epochs": 2, "batch_size": 8, "bptt": 20, "lr": 0.02, "threads": 1},
}
CLASSIFIER = {
    "batch_size": 32,
    "threads": 1,
    "stages": [{"unfrozen": 1, "epochs": 1, "lr": 0.02}, {"unfrozen": None, "epochs": 1, "lr": 0.01}],
}
WORDS = {"billing": ["invoice", "refund", "charged", "card"], "delivery": ["parcel", "courier", "late", "lost"]}
EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": "batches are drawn: a row of the weight 2 is not drawn twice",
}


def table(rng: np.random.Generator) -> tuple[pd.DataFrame, pd.Series]:
    """Rows of every role with gaps, and a class that district and heat decide."""
    frame = pd.DataFrame(
        {
            "district": rng.choice(list("abcd"), N),
            "heat": rng.normal(size=N),
            "garden": rng.random(N) < 0.5,
            "sold": pd.date_range("2020-01-01", periods=N),
            "note": [f"near the {rng.choice(['park', 'lake'])} and {k} shops" for k in range(N)],
        }
    )
    answer = np.where(2 * frame["district"].isin(["a", "b"]) + frame["heat"] > 1, "yes", "no")
    frame.loc[::7, "heat"] = np.nan
    return frame, pd.Series(answer, name="answer")


@pytest.fixture(scope="module")
def tickets() -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(0)
    teams = [str(team) for team in rng.choice(list(WORDS), 160)]
    return [f"My {' and the '.join(rng.choice(WORDS[team], 3))}. Please look." for team in teams], teams


@pytest.fixture(scope="module")
def language_model(tickets: tuple[list[str], list[str]]) -> LanguageModel:
    return LanguageModel(**LANGUAGE).fit(tickets[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", [TabularClassifier, TabularRegressor])
def test_scikit_learns_checks_of_tables(kind: Any) -> None:
    check_estimator(kind(**SMALL), expected_failed_checks=EXPECTED, on_skip=None)


@pytest.mark.parametrize("kind", [TextClassifier, LanguageModel, Recommender])
def test_scikit_learns_checks_of_what_takes_no_arrays(kind: Any) -> None:
    check_estimator(kind(), on_skip=None)


def test_importing_the_package_loads_no_heavy_library() -> None:
    code = "import sys, embedline; print(sorted({'torch', 'sklearn', 'kedro', 'pandas', 'polars'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_a_table_of_every_role_is_learned_and_stored(tmp_path: Path) -> None:
    X, y = table(np.random.default_rng(0))
    model = TabularClassifier(**SMALL).fit(X[:200], y[:200])
    assert model.score(X[200:], y[200:]) > 0.8
    roles = ModelBundle.from_bytes(model.save(tmp_path / "m.safetensors").read_bytes()).encoder["inferred"]["columns"]
    assert (roles["categorical"], roles["dates"], roles["text"]) == (["district", "garden"], ["sold"], ["note"])
    loaded = TabularClassifier.load(tmp_path / "m.safetensors")
    assert np.array_equal(loaded.predict_proba(X), model.predict_proba(X))
    assert list(loaded.classes_) == ["no", "yes"] and set(loaded.predict(X)) == {"no", "yes"}
    with pytest.raises(DataError, match="TabularClassifier"):
        TabularRegressor.load(tmp_path / "m.safetensors")
    with pytest.raises(DataError, match="nowhere"):
        TabularRegressor.load(tmp_path / "nowhere")


def test_polars_and_pandas_give_the_same_model() -> None:
    X, y = table(np.random.default_rng(1))
    small = {**SMALL, "training": {**SMALL["training"], "epochs": 2}}
    one = TabularClassifier(**small).fit(X[40:], y[40:].reset_index(drop=True))  # rows belong together by their order
    other = TabularClassifier(**small).fit(pl.from_pandas(X[40:]).lazy(), pl.from_pandas(y[40:]))
    assert np.array_equal(one.predict_proba(X), other.predict_proba(pl.from_pandas(X)))


def test_a_search_and_a_copy_work_on_frames() -> None:
    X, y = table(np.random.default_rng(2))
    X = X[["district", "heat", "garden"]]
    model = TabularClassifier(**SMALL)
    assert clone(model).get_params() == model.get_params()
    assert cross_val_score(model, pl.from_pandas(X), y.to_numpy(), cv=2).min() > 0.6
    grid = {"training": [{**SMALL["training"], "epochs": epochs} for epochs in (1, 30)]}
    assert GridSearchCV(model, grid, cv=2).fit(X, y).best_params_["training"]["epochs"] == 30


def test_numbers_have_intervals_and_weights() -> None:
    rng = np.random.default_rng(3)
    X = pd.DataFrame({"a": rng.normal(size=600), "kind": rng.choice(["x", "y"], 600)})
    y = 5 * X["a"] + rng.normal(size=600)
    training = {**SMALL["training"], "batch_size": 64, "intervals": {"levels": [0.8]}}
    model = TabularRegressor(**{**SMALL, "training": training}).fit(X[:400], y[:400])
    low, high = model.predict_interval(X[400:]).T
    assert 0.7 < np.mean((low < y[400:]) & (y[400:] < high)) < 0.9
    with pytest.raises(DataError, match="level"):
        model.predict_interval(X, level=0.95)
    weights = (X["kind"] == "x").astype(float)
    shifted = y + 100 * (X["kind"] == "y")
    weighted = TabularRegressor(**SMALL).fit(X[["a"]], shifted, sample_weight=weights)
    assert abs(np.mean(weighted.predict(X[["a"]]) - y)) < 5  # rows of the weight 0 are not learned


def test_a_wrong_block_is_answered_with_its_key() -> None:
    X, y = table(np.random.default_rng(4))
    with pytest.raises(DataError, match=r"training\.epochs"):
        TabularClassifier(training={"epochs": "many"}).fit(X, y)
    with pytest.raises(DataError, match=r"network\.layrs"):
        TabularClassifier(network={"layrs": [3]}).fit(X, y)
    with pytest.raises(DataError, match="district"):
        TabularClassifier(**SMALL).fit(X, y).predict(pl.from_pandas(X).with_columns(district=pl.col("heat")))


@pytest.fixture(scope="module")
def incomes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifacts of a small run of the pipeline `adult`."""
    root = tmp_path_factory.mktemp("incomes")
    tracking_database(root)
    settings = {"generator": {"n_data": 400, "n_test": 150}, "training": {"epochs": 2, "threads": 1}}
    run_here(root, "adult", adult=settings, to_outputs=["adult.predictions"])
    return root / "data"


def artifact(root: Path, path: str) -> Path:
    return max(root.glob(f"{path}/*/*"))


def test_the_model_of_a_pipeline_predicts_the_same(incomes: Path) -> None:
    rows = pl.read_ipc(artifact(incomes, "05_model_input/adult/table.feather")).filter(pl.col("file") == "test")
    stored = pl.read_parquet(artifact(incomes, "07_model_output/adult/predictions.parquet"))
    model = TabularClassifier.load(incomes / "06_models/adult/model.safetensors")
    assert np.array_equal(model.predict_proba(rows), stored.select("p_<=50K", "p_>50K").to_numpy())
    assert model.predict(rows).tolist() == stored["predicted"].to_list()
    assert model.score(rows.to_pandas(), rows["income"].to_numpy()) == pytest.approx(
        (stored["predicted"] == stored["actual"]).mean()
    )


def test_the_same_settings_and_rows_give_the_model_of_the_pipeline(incomes: Path) -> None:
    rows = pl.read_ipc(artifact(incomes, "05_model_input/adult/table.feather")).filter(pl.col("file") == "data")
    theirs = ModelBundle.from_bytes(artifact(incomes, "06_models/adult/model.safetensors").read_bytes())
    blocks = parameters("adult")
    columns = {name: value for name, value in blocks["columns"].items() if name != "target"} | {"inputs": None}
    training = {**blocks["training"], "epochs": 2, "threads": 1}
    ours = TabularClassifier(columns=columns, network=blocks["network"], training=training)
    ours.fit(rows.drop("income"), rows["income"])
    assert ours.bundle_.encoder == theirs.encoder
    assert all(np.array_equal(ours.bundle_.weights[name], value) for name, value in theirs.weights.items())
    # The other way round: what the estimator stores, the project serves.
    request = rows.head(20).to_pandas()
    answers = pack_model(ModelBundle.from_bytes(ours.bundle_.to_bytes())).open().predict(request)
    assert np.array_equal(answers[["p_<=50K", "p_>50K"]].to_numpy(), ours.predict_proba(rows.drop("income").head(20)))


def parameters(source: str, project: Path | None = None) -> dict[str, Any]:
    """The block of a source in the environment `sample`."""
    conf = (project or Path(__file__).resolve().parents[1]) / "conf"
    merge = {"parameters": "soft"}
    loader = ConfigLoader(str(conf), base_env="base", default_run_env="sample", merge_strategy=merge)
    found: dict[str, Any] = loader["parameters"][source]
    return found


def test_a_language_model_goes_on_and_starts_a_classifier(
    tickets: tuple[list[str], list[str]], language_model: LanguageModel, tmp_path: Path
) -> None:
    texts, teams = tickets
    assert language_model.score(texts) > language_model.score(["lost card look courier the My"] * 20)
    assert language_model.generate("My", 3, seed=1, n_samples=2)[0].startswith("My")
    assert language_model.next_words("My", 4)["probability"].is_between(0, 1).all()
    path = language_model.save(tmp_path / "language_model.safetensors")
    assert LanguageModel.load(path).score(texts) == language_model.score(texts)
    classifiers = [
        TextClassifier(language_model=start, classifier_training=CLASSIFIER).fit(texts[:120], teams[:120])
        for start in (language_model, path)
    ]
    assert classifiers[0].score(texts[120:], teams[120:]) > 0.9
    assert np.array_equal(*(each.predict_proba(texts) for each in classifiers))
    assert "courier" in classifiers[0].explain("The courier is late")["word"].to_list()
    loaded = TextClassifier.load(classifiers[0].save(tmp_path / "model.safetensors"))
    assert np.array_equal(loaded.predict(pd.Series(texts)), classifiers[0].predict(np.array(texts)))


def test_texts_are_cross_validated(tickets: tuple[list[str], list[str]], language_model: LanguageModel) -> None:
    texts, teams = tickets
    start = FrozenEstimator(language_model)
    model = TextClassifier(language_model=start, classifier_training=CLASSIFIER)
    assert cross_val_score(model, texts, teams, cv=2).min() > 0.9
    with pytest.raises(DataError, match="3"):
        model.fit([*texts[:2], None, *texts[3:]], teams)


def test_labels_keep_their_type(tickets: tuple[list[str], list[str]], language_model: LanguageModel) -> None:
    texts, teams = tickets
    numbers = np.array([10 if team == "billing" else 9 for team in teams])
    model = TextClassifier(language_model=language_model, classifier_training=CLASSIFIER).fit(texts, numbers)
    assert model.classes_.tolist() == [9, 10] and np.mean(model.predict(texts) == numbers) > 0.9


@pytest.mark.slow
def test_models_of_texts_and_ratings_predict_as_their_pipelines(small_project: Path) -> None:
    documents = pl.read_ipc(newest(small_project, "03_primary/imdb/documents.feather"))
    stored = pl.read_parquet(newest(small_project, "07_model_output/imdb/predictions.parquet"))
    classifier = TextClassifier.load(small_project / "data/sample/06_models/imdb/model.safetensors")
    tests = documents.filter(pl.col("split") == "test").join(stored, on="document_id", maintain_order="left")
    assert np.allclose(classifier.predict_proba(tests["text"]), tests.select("p_neg", "p_pos").to_numpy(), atol=1e-5)

    stored = pl.read_parquet(newest(small_project, "07_model_output/movielens/predictions.parquet"))
    model = Recommender.load(small_project / "data/sample/06_models/movielens/model.safetensors")
    assert np.allclose(model.predict(stored.select("user", "item")), stored["predicted"].to_numpy(), atol=1e-6)
    with pytest.raises(DataError, match="service"):
        model.recommend([1])


def test_ratings_are_learned_and_items_recommended(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n_users, n_items = 60, 40
    taste = rng.normal(0, 0.8, (n_users, 2)) @ rng.normal(0, 0.8, (2, n_items)) + rng.normal(0, 0.5, n_items)
    user, item = rng.permutation(np.argwhere(rng.random((n_users, n_items)) < 0.6)).T
    stars = np.clip(np.rint(3 + taste[user, item]), 1, 5)
    pairs = pd.DataFrame({"who": user, "album": [f"album {k}" for k in item]})
    model = Recommender(user="who", item="album", training={"epochs": 15, "batch_size": 64, "lr": 0.01})
    assert cross_val_score(model, pairs, stars, cv=2).min() > 0.2
    model.fit(pairs, stars)
    found = model.recommend([3, 5], k=4)
    assert found["user"].to_list() == [3] * 4 + [5] * 4 and found["rank"].to_list() == [1, 2, 3, 4] * 2
    assert not set(found.filter(pl.col("user") == 3)["item"]) & set(pairs[pairs["who"] == 3]["album"])
    assert len(model.recommend_for({"album 1": 5, "album 2": 1}, k=3)) == 3
    loaded = Recommender.load(model.save(tmp_path / "albums.service"))
    assert np.array_equal(loaded.predict(pl.from_pandas(pairs)), model.predict(pairs))
    assert loaded.recommend([3, 5], k=4).equals(found)
    with pytest.raises(DataError, match="album 99"):
        model.recommend_for({"album 99": 5})
    with pytest.raises(DataError, match="who"):
        model.predict(pairs.rename(columns={"who": "whom"}))
