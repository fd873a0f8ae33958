"""The project as a whole: arrows of imports, registry, catalog, parameters, and what the command line says."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from copies import kedro
from embedline.tables.columns import Columns

PROJECT = Path(__file__).resolve().parents[1]

SOURCE = PROJECT / "src" / "embedline"
USES_KEDRO = {
    "pipelines",
    "datasets",
    "running",
    "hooks",
    "parameter_hooks",
    "report_hooks",
    "spark_hooks",
    "publishing_hook",
    "config_loader",
    "source_hooks",
    "redaction_hooks",
    "settings",
    "cli",
    "commands",
    "__main__",
    "pipeline_registry",
}
USES_TORCH = {"tables", "text", "ratings", "training", "serving"}
MAY_IMPORT = {  # own packages that each package may import, besides itself
    "redaction": set(),
    "errors": {"redaction"},
    "training": {"errors"},
    "tables": {"errors", "training"},
    "text": {"errors", "training"},
    "ratings": {"errors", "training"},
    "frames": {"errors"},
    "sources": {"errors", "redaction"},
    "spark": {"errors"},
    "datasets": {"errors", "spark", "running", "serving", "training"},
    "running": set(),  # another Kedro project can copy it
    "serving": {"errors", "tables", "text", "ratings", "training"},
    "reporting": {"errors", "redaction"},
    "pipelines": {"errors", "sources", "frames", "tables", "text", "ratings", "training", "serving", "reporting"},
}


def imports_of(path: Path) -> set[str]:
    """Names of the modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def modules() -> list[tuple[str, Path]]:
    """Each source file with the top-level package (or module) that it belongs to."""
    return [(path.relative_to(SOURCE).parts[0].removesuffix(".py"), path) for path in SOURCE.rglob("*.py")]


def test_imports_point_one_way() -> None:
    for package, path in modules():
        for name in imports_of(path):
            top, _, rest = name.partition(".")
            if top in {"kedro", "kedro_datasets"}:
                assert package in USES_KEDRO, f"{path} imports {name}"
            if top in {"torch", "accelerate", "safetensors"}:
                assert package in USES_TORCH, f"{path} imports {name}"
            if top == "embedline" and rest and package in MAY_IMPORT:
                own = rest.split(".")[0]
                assert own in {package, *MAY_IMPORT[package]}, f"{path} imports {name}"


def test_registry_imports_no_heavy_library() -> None:
    code = (
        "import sys; sys.path.insert(0, 'src')\n"
        "from embedline.pipeline_registry import register_pipelines\n"
        "assert register_pipelines()\n"
        "heavy = {'torch', 'lightgbm', 'plotly', 'mlflow', 'accelerate', 'sklearn', 'spacy', 'pyspark'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_command_prints_no_warning() -> None:
    shown = kedro(PROJECT, "registry", "list")
    assert "movielens_folds" in shown
    assert "Warning" not in shown and "WARNING" not in shown


def test_brackets_in_a_log_message_are_shown() -> None:
    code = (
        "import logging; from kedro.framework.project import LOGGING; import embedline\n"
        "markup = {'rich_format': ['dark_orange']}\n"
        "logging.getLogger('kedro.io').info('Loading %s', '[/INST] [red]x[/red]', extra=markup)\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert "Loading [/INST] [red]x[/red]" in shown.stdout


@pytest.fixture(scope="module")
def context() -> object:
    """Context of the project in the base environment."""
    bootstrap_project(PROJECT)
    with KedroSession.create(project_path=PROJECT, env="base") as session:
        return session.load_context()


def test_every_dataset_is_in_the_catalog_and_versioned(context) -> None:
    from embedline.pipeline_registry import register_pipelines

    names = {name for pipeline in register_pipelines().values() for name in pipeline.all_outputs()}
    artifacts = {name for name in names if not name.startswith("params:")}
    assert "rossmann.table" in artifacts
    catalog = context.catalog  # made anew each time it is asked for
    for name in sorted(artifacts):
        assert name in catalog, f"{name} would be lost after the run: no catalog entry matches it"
        dataset = catalog.get(name)
        assert dataset._version is not None, f"{name} is not versioned"
        assert "AtomicSave" in {base.__name__ for base in type(dataset).__mro__}, f"{name} is not saved atomically"
        assert (dataset.metadata or {}).get("kedro-viz", {}).get("layer"), f"{name} has no layer in kedro-viz"


def test_environments_keep_their_artifacts_apart() -> None:
    bootstrap_project(PROJECT)
    paths = {}
    for env in ("base", None):  # None: sample is the default
        with KedroSession.create(project_path=PROJECT, env=env) as session:
            paths[env] = str(session.load_context().catalog.get("rossmann.model")._filepath)
    assert paths["base"] == f"{PROJECT}/data/06_models/rossmann/model.safetensors"
    assert paths[None] == f"{PROJECT}/data/sample/06_models/rossmann/model.safetensors"


def test_every_parameter_is_read_in_every_environment() -> None:
    for env in ("base", "laptop", "sample", "spark"):
        with KedroSession.create(project_path=PROJECT, env=env) as session:
            assert session.load_context().catalog  # ParameterCheck raises for one that no pipeline reads


def test_parameters_list_the_columns_of_the_lessons(context) -> None:
    columns = Columns.model_validate(context.config_loader["parameters"]["rossmann"]["columns"])
    categorical = (
        "Store DayOfWeek Year Month Day StateHoliday CompetitionMonthsOpen Promo2Weeks StoreType Assortment "
        "PromoInterval CompetitionOpenSinceYear Promo2SinceYear State Week Events Promo_fw Promo_bw StateHoliday_fw "
        "StateHoliday_bw SchoolHoliday_fw SchoolHoliday_bw"
    )
    continuous = (
        "CompetitionDistance Max_TemperatureC Mean_TemperatureC Min_TemperatureC Max_Humidity Mean_Humidity "
        "Min_Humidity Max_Wind_SpeedKm_h Mean_Wind_SpeedKm_h CloudCover trend trend_DE AfterStateHoliday "
        "BeforeStateHoliday Promo SchoolHoliday"
    )
    assert list(columns.categorical[:22]) == categorical.split()
    assert list(columns.continuous[:16]) == continuous.split()
    assert columns.target == "Sales"


def test_yaml_files_name_no_machine() -> None:
    for path in (PROJECT / "conf").rglob("*.yml"):
        text = path.read_text()
        yaml.safe_load(text)
        assert not re.search(r"(/home/|/root|/work\b|/tmp)", text), path
