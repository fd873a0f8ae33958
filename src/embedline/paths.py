"""Where the project lies, for paths that do not depend on the working directory."""

from pathlib import Path


def project_root() -> Path:
    """Folder of the project: the checkout, or the working directory when the package is installed elsewhere."""
    checkout = Path(__file__).resolve().parents[2]
    return checkout if (checkout / "conf").is_dir() else Path.cwd()


def project_path(relative: str = "") -> str:
    """``${project:mlflow.db}`` in YAML: a path that does not depend on the working directory."""
    return (project_root() / relative).as_posix()


def sqlite_url(path: str) -> str:
    """``${sqlite:/folder/mlflow.db}`` in YAML: the URL of a database, in whose path ``?`` and ``%`` may stand."""
    quoted = path.replace("%", "%25").replace("?", "%3F")
    # With the driver's name, as MLflow makes the folder of what follows `sqlite:///`, and does not unquote it.
    return f"sqlite:///{path}" if quoted == path else f"sqlite+pysqlite:///{quoted}"
