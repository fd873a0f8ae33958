"""A parameter that nobody reads stops the run, and nested values become flat names."""

from pathlib import Path
from typing import Any

import mlflow
import pytest

from embedline.errors import DataError
from embedline.hooks import _create_database, _flatten, _tracked
from embedline.parameter_hooks import ParameterCheck, _unread

READ = {"shop.training", "shop.split", "shop.features.windows", "seed"}


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"seed": 1, "shop": {"training": {"epochs": 1, "anything": 2}, "split": {}}}, []),
        ({"sead": 1}, ["sead"]),
        ({"shop": {"trainig": {"epochs": 1}, "split": {}}}, ["shop.trainig"]),
        ({"shopp": {"training": {"epochs": 1}}}, ["shopp"]),
        ({"shop": {"features": {"windows": 7, "window": 3}}}, ["shop.features.window"]),
        ({"shop": 3}, ["shop"]),
        ({"shop": {}}, []),
        ({"data_root": "x", "tracking_root": "y", "_template": {"epochs": 1}}, []),
        ({"shop": {"data_root": "x"}}, ["shop.data_root"]),
    ],
)
def test_unread_parameters(parameters: dict[str, Any], expected: list[str]) -> None:
    assert list(_unread(parameters, READ)) == expected


def test_a_misspelt_block_is_named_with_its_neighbour() -> None:
    message = "no pipeline reads the parameter 'rossmann.trainig': did you mean 'rossmann.training'?"
    with pytest.raises(DataError, match=message.replace("?", r"\?")):
        ParameterCheck().after_catalog_created(parameters={"parameters": {"rossmann": {"trainig": {"epochs": 1}}}})


def test_a_strange_block_is_answered_with_all_that_are_read() -> None:
    with pytest.raises(DataError, match=r"reads the parameter 'qqq'; these are read: .*rossmann\.columns"):
        ParameterCheck().after_catalog_created(parameters={"parameters": {"qqq": 1}})


def test_what_is_read_passes() -> None:
    ParameterCheck().after_catalog_created(parameters={"parameters": {"rossmann": {"training": {"epochs": 1}}}})


def test_flattening_names_every_leaf() -> None:
    nested = {"a": 1, "b": {"c": [2, 3], "d": {"e": None}}, "f": {}}
    assert list(_flatten(nested)) == [(".a", 1), (".b.c", [2, 3]), (".b.d.e", None)]


def test_the_tracking_database_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "mlflow.db"

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "search_experiments", killed)
        with pytest.raises(KeyboardInterrupt):
            _create_database(f"sqlite:///{path}")
    assert not path.exists() and not list(path.parent.iterdir())
    _create_database(f"sqlite:///{path}")
    assert [e.name for e in mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()] == ["Default"]
    content = path.read_bytes()
    _create_database(f"sqlite:///{path}")  # one that is there stays as it is
    assert path.read_bytes() == content and list(path.parent.iterdir()) == [path]
    _create_database("https://tracking.example")  # a server makes its own


def test_names_become_such_as_mlflow_takes() -> None:
    assert _tracked("adult.baselines.lightgbm.>50K") == "adult.baselines.lightgbm._50K"
    assert _tracked("school.targets.Grade (A-F).log_loss") == "school.targets.Grade _A-F_.log_loss"
    assert _tracked("größe.rmse") == "größe.rmse"
