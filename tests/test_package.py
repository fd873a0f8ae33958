"""What `kedro package` makes: a wheel and an archive of the configuration that run in an empty folder."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import warm
from copies import PROJECT, copy_project, kedro

pytestmark = pytest.mark.slow

LARGEST_WHEEL = 1_000_000  # bytes; it was 412,559 when this was written


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `dist` of a packaged copy of the project."""
    project = copy_project(tmp_path_factory.mktemp("packaged"))
    for name in ("README.md", "LICENSE"):
        shutil.copy(PROJECT / name, project / name)
    (project / "conf" / "local" / "credentials.yml").write_text("mine: secret\n")
    kedro(project, "package")
    return project / "dist"


@pytest.fixture(scope="module")
def installed(packaged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is installed into, without what it depends on."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*pip, *map(str, packaged.glob("*.whl"))], check=True)
    return folder


def embedline(folder: Path, installed: Path, *arguments: str, status: int = 0) -> str:
    """Run the installed package in ``folder``; what it printed, once the exit status is as expected."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "200"}
    run = warm.start("embedline", *arguments, cwd=folder, env=environment)
    printed, _ = run.communicate()
    assert run.returncode == status, printed
    return printed


def test_the_wheel_has_the_packages_and_nothing_else(packaged: Path) -> None:
    (wheel,) = packaged.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        (listed,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "embedline = embedline.__main__:main" in archive.read(listed).decode()
    source = PROJECT / "src"
    packages = [source / "embedline", source / "kedro_incremental"]
    files = [path for package in packages for path in package.rglob("*") if path.is_file()]
    files = [path for path in files if "__pycache__" not in path.parts]
    read_by_people = {"README.md"}  # how to use the runner in another project
    assert inside == {str(path.relative_to(source)) for path in files if path.name not in read_by_people}
    assert wheel.stat().st_size < LARGEST_WHEEL


def test_the_configuration_has_every_environment_and_no_secret(packaged: Path) -> None:
    with tarfile.open(packaged / "conf-embedline.tar.gz") as archive:
        names = {name for name in archive.getnames() if name.endswith(".yml")}
    shipped = {
        str(path.relative_to(PROJECT)) for path in (PROJECT / "conf").rglob("*.yml") if "local" not in path.parts
    }
    assert names == shipped


def test_it_runs_from_an_empty_folder(packaged: Path, installed: Path, tmp_path: Path) -> None:
    archive = str(packaged / "conf-embedline.tar.gz")
    shown = embedline(tmp_path, installed, "--conf-source", archive, "--pipelines", "adult_nine")
    assert "20 of 20 nodes ran" in shown
    assert {path.name for path in tmp_path.iterdir()} == {"data", "mlflow.db", "mlartifacts"}
    assert list(tmp_path.glob("data/sample/08_reporting/adult_nine/metrics.json/*/metrics.json"))

    # With the configuration unpacked every command works, and none talks to Kedro's statistics server.
    subprocess.run(["tar", "xzf", archive], cwd=tmp_path, check=True)
    shown = embedline(tmp_path, installed, "run", "--pipelines", "adult_nine")
    assert "all 20 nodes up to date" in shown
    assert "WARNING" not in shown and "elemetry" not in shown
    assert "made by the node adult_nine.train" in embedline(tmp_path, installed, "why", "adult_nine.model")


def test_without_configuration_it_says_where_to_find_some(installed: Path, tmp_path: Path) -> None:
    for command in (["run"], ["recommend", "movielens", "42"], ["why", "adult.model"]):
        shown = embedline(tmp_path, installed, *command, status=1)
        assert shown.count("Error: ") == 1 and "unpack the packaged conf-embedline.tar.gz here" in shown
        assert "Traceback" not in shown
        assert not list(tmp_path.iterdir())
