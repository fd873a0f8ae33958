"""`serve` at the command line: which service it takes, and what it hands to the processes that answer."""

from pathlib import Path
from typing import Any

import pytest

from command_line import NEW, OLD, invoke, store
from copies import PROJECT
from embedline.errors import DataError
from embedline.serving import server
from embedline.serving.ratings import pack_ratings
from embedline.serving.registry import Registry
from embedline.serving.server import ServerOptions
from embedline.serving.service import Service
from test_recommend_command import make_bundle


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of a packed service."""
    root = tmp_path_factory.mktemp("data")
    for version, seed in ((OLD, 1), (NEW, 2)):
        file = store(root, "06_models/movielens/service.zip", version)
        file.write_bytes(pack_ratings(make_bundle(seed)).to_bytes())
    return root


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the command would serve: the settings, the service that the processes would read, host and port."""
    found: list[dict[str, Any]] = []

    def note(serving: ServerOptions, *, host: str, port: int) -> None:
        packed = Service.from_bytes(Path(serving.path).read_bytes())
        found.append({"serving": serving, "packed": packed, "host": host, "port": port})

    monkeypatch.setattr(server, "run", note)
    return found


@pytest.fixture
def run(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command on these artifacts; its result."""
    monkeypatch.chdir(PROJECT)
    roots = f"data_root={data_root},tracking_root={data_root}"
    return lambda *given, **more: invoke("serve", *given, "--params", roots, **more)


def identity(seed: int) -> str:
    return pack_ratings(make_bundle(seed)).identity


def test_the_newest_packed_file(run: Any, served: list[dict[str, Any]]) -> None:
    run("movielens", "--packed", "--port", "0", "--workers", "3", "--max-rows", "7", "--ignore-unknown")
    (found,) = served
    assert found["packed"].identity == identity(2) != identity(1)
    assert (found["host"], found["port"]) == ("127.0.0.1", 0)
    serving = found["serving"]
    assert (serving.workers, serving.limits, serving.strict) == (3, {"rows": 7}, False)
    assert serving.name == f"movielens.service of sample, version {NEW}"
    assert not Path(serving.path).exists()  # what the processes read is gone with them


def test_a_version_of_it(run: Any, served: list[dict[str, Any]]) -> None:
    run("movielens", "--version", OLD, "--max-bytes", "9000", "--host", "0.0.0.0")
    assert served[0]["packed"].identity == identity(1)
    assert served[0]["serving"].limits == {"body": 9000} and served[0]["host"] == "0.0.0.0"
    message = run("movielens", "--version", "1999", status=1).output
    assert f"movielens.service has no version '1999' in sample; the newest is {NEW}" in message


def test_the_champion_by_its_alias(run: Any, served: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(self: Registry, name: str, alias: str) -> Service:
        asked.append((self.tracking_uri, name, alias))
        if alias == "nobody":
            raise DataError("there is no version of movielens_sample with the alias 'nobody'")
        return pack_ratings(make_bundle(1))

    monkeypatch.setattr(Registry, "load", load)
    run("movielens")
    run("movielens", "--alias", "shadow", "--env", "base")
    uri, name, alias = asked[0]
    assert uri.startswith("sqlite:///") and uri.endswith("/mlflow.db")
    assert (name, alias) == ("movielens_sample", "champion") and asked[1][1:] == ("movielens", "shadow")
    assert served[0]["packed"].identity == identity(1)
    assert [one["serving"].name for one in served] == ["models:/movielens_sample@champion", "models:/movielens@shadow"]
    message = run("movielens", "--alias", "nobody", status=1).output
    assert message == "Error: there is no version of movielens_sample with the alias 'nobody'\n"


def test_what_is_not_there_is_told_with_the_run_that_makes_it(run: Any) -> None:
    message = run("adult", "--packed", status=1).output
    assert "there is no adult.service in sample yet: run `kedro run --pipelines adult_publish --env sample`" in message
    message = run("nothing", "--packed", status=1).output
    assert "there is no nothing.service in sample yet: no pipeline makes it; there are" in message
    assert "rossmann" in message
