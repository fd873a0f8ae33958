"""Project settings, read by Kedro before anything else."""

from pathlib import Path

from embedline.errors import redacted
from embedline.hooks import Checkpoints, DatasetNames, Tracking
from embedline.parameter_hooks import ConfigLoader, ParameterCheck, ParameterDefaults, SourceAccess, SourcePaths
from embedline.publishing_hook import Publishing
from embedline.redaction_hooks import Redaction
from embedline.report_hooks import MissingArtifacts
from embedline.running import IncrementalSession, redaction
from embedline.spark_hooks import SparkSettings


def project_root() -> Path:
    """Folder of the project: the checkout, or the working directory when the package is installed elsewhere."""
    checkout = Path(__file__).resolve().parents[2]
    return checkout if (checkout / "conf").is_dir() else Path.cwd()


def _project_path(relative: str = "") -> str:
    """``${project:mlflow.db}`` in YAML: a path that does not depend on the working directory."""
    return (project_root() / relative).as_posix()


def sqlite_url(path: str) -> str:
    """``${sqlite:/folder/mlflow.db}`` in YAML: the URL of a database, in whose path ``?`` and ``%`` may stand."""
    quoted = path.replace("%", "%25").replace("?", "%3F")
    # With the driver's name, as MLflow makes the folder of what follows `sqlite:///`, and does not unquote it.
    return f"sqlite:///{path}" if quoted == path else f"sqlite+pysqlite:///{quoted}"


HOOKS = (
    SourcePaths(),
    ParameterDefaults(),
    ParameterCheck(),
    SourceAccess(),
    Redaction(),
    Checkpoints(),
    Tracking(),
    Publishing(),
    SparkSettings(),
    MissingArtifacts(),
    DatasetNames(),
)
redaction.use(redacted)  # passwords are no part of what is remembered of runs
SESSION_CLASS = IncrementalSession  # runs only what changed; see embedline.running

CONFIG_LOADER_CLASS = ConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "sample",  # a plain `kedro run` on a fresh clone needs no download
    "merge_strategy": {"parameters": "soft"},  # an override of one key keeps its siblings
    "custom_resolvers": {"project": _project_path, "sqlite": sqlite_url},
}
