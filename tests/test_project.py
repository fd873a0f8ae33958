"""The project as a whole: arrows of imports, registry, catalog, parameters, and what the command line says."""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import yaml
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from copies import kedro
from embedline.pipelines.tabular.columns import Columns

PROJECT = Path(__file__).resolve().parents[1]

SOURCE = PROJECT / "src"
# Files that may import Kedro: all else is plain Python that works without it.
KEDRO_FILES = {"pipeline.py", "nodes.py", "settings.py", "config_loader.py", "pipeline_registry.py", "cli.py"}
KEDRO_FOLDERS = {"datasets", "hooks", "commands"}
LEARNERS = {"pipelines.tabular", "pipelines.text", "pipelines.ratings", "pipelines.images"}
MAY_IMPORT = {  # what each part of the project may import of it, besides itself
    "redaction": set(),
    "paths": {"errors"},
    "errors": {"redaction"},
    "frames": {"errors", "spark"},
    "training": {"errors", "frames"},
    "archive": {"errors", "download"},
    "download": {"errors", "redaction"},
    "spark": {"errors"},
    "pipelines.tabular": {"errors", "frames", "training"},
    "pipelines.text": {"errors", "paths", "frames", "training", "archive", "download"},
    "pipelines.ratings": {"errors", "frames", "training"},
    "pipelines.images": {"errors", "paths", "training"},
    "serving": {"errors", "frames", "training", *LEARNERS},
    "api": {"errors", "frames", "training", "serving", *LEARNERS},
    "pipelines.publish": {"errors", "frames", "training", "serving", *LEARNERS},
    "pipelines.rossmann": {
        "errors",
        "paths",
        "frames",
        "training",
        "serving",
        "archive",
        "download",
        "pipelines.publish",
        *LEARNERS,
    },
    "pipelines.imdb": {"errors", "paths", "archive", "download", "training", "pipelines.text"},
    "pipelines.arxiv": {"errors", "paths", "archive", "download", "training", "pipelines.imdb"},
    "pipelines.movielens": {"errors", "paths", "archive", "download", "training"},
    "pipelines.pictures": {"errors", "paths", "archive", "training", "pipelines.imdb", "pipelines.images"},
    "pipelines.adult": {"errors", "paths", "archive", "download", "training"},
    "pipelines.tuning": {"errors", "training", *LEARNERS},
    "pipelines.report": {"errors", "redaction", "training"},
    "datasets": {"errors", "frames", "spark", "serving", "training"},
}


def modules() -> dict[str, Path]:
    """Every module of both packages by its dotted name."""
    paths = {".".join(path.relative_to(SOURCE).with_suffix("").parts): path for path in SOURCE.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in paths.items()}


def imports_of(path: Path) -> set[str]:
    """Names of the modules that a file imports, anywhere in it, and of what it takes from them."""
    package = path.relative_to(SOURCE).parent.parts
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def area_of(module: str) -> str:
    """The part of embedline that a module belongs to: ``training``, or ``pipelines.text``."""
    parts = module.split(".")[1:]
    return ".".join(parts[: 2 if parts and parts[0] == "pipelines" else 1])


def test_imports_point_one_way() -> None:
    for name, path in modules().items():
        allowed = MAY_IMPORT.get(area_of(name))
        for imported in imports_of(path):
            if imported.split(".")[0] == "embedline":
                assert name.startswith("embedline"), f"{path} imports {imported}"
                other = area_of(imported)
                if allowed is not None and other:
                    assert other in {area_of(name), "__version__", *allowed}, f"{path} imports {imported}"


def test_only_files_of_the_framework_import_kedro() -> None:
    for name, path in modules().items():
        relative = path.relative_to(SOURCE).parts
        framework = path.name in KEDRO_FILES or path.name == "__main__.py" or relative[1] in KEDRO_FOLDERS
        if relative[0] == "embedline" and not framework:
            found = {imported for imported in imports_of(path) if imported.split(".")[0].startswith("kedro")} - {
                "kedro_incremental"
            }
            assert not found, f"{name} imports {sorted(found)}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    paths = modules()
    graph = {name: {one for one in imports_of(path) if one in paths and one != name} for name, path in paths.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other: {' -> '.join(error.args[1])}")


def test_registry_imports_no_heavy_library() -> None:
    code = (
        "import sys; sys.path.insert(0, 'src')\n"
        "from embedline.pipeline_registry import register_pipelines\n"
        "assert register_pipelines()\n"
        "heavy = {'torch', 'lightgbm', 'plotly', 'mlflow', 'accelerate', 'sklearn', 'spacy', 'pyspark', 'optuna'}\n"
        "heavy |= {'PIL', 'timm'}\n"
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
        "logging.getLogger('kedro.io').warning('Loading %s', '[/INST] [red]x[/red]', extra=markup)\n"
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
