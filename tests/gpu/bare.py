"""Run a program as on a machine with torch and few other packages: ``python bare.py PROGRAM [ARGUMENT …]``."""

import importlib.machinery
import runpy
import sys
from typing import Any

ABSENT = {
    "fastai",
    "jinja2",
    "kedro",
    "kedro_datasets",
    "kedro_mlflow",
    "lightgbm",
    "mlflow",
    "omegaconf",
    "plotly",
    "pyspark",
    "rich",
    "spacy",
    "uvicorn",
}


FIND = importlib.machinery.PathFinder.find_spec


def find_spec(cls: Any, fullname: str, path: Any = None, target: Any = None) -> Any:
    """What Python's own finder finds, but for the absent packages."""
    return None if fullname.split(".", maxsplit=1)[0] in ABSENT else FIND(fullname, path, target)


if __name__ == "__main__":
    importlib.machinery.PathFinder.find_spec = classmethod(find_spec)  # type: ignore[method-assign, assignment]
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
