"""A packed service as an MLflow model: ``loader_module`` of the flavour ``python_function``, so nothing is pickled."""

from pathlib import Path
from typing import Any

import pandas as pd

from embedline.errors import DataError
from embedline.serving.columns import require_columns
from embedline.serving.packed import PackedService

FILE = "service.zip"


class ServedModel:
    """What ``mlflow.pyfunc.load_model`` wraps: errors of a request are MLflow's 400, any other error is a 5xx."""

    def __init__(self, packed: PackedService) -> None:
        self.packed = packed
        self._service = packed.open()

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Answer the rows ``data``; raise an MlflowException that says which column and row is at fault."""
        from mlflow.exceptions import MlflowException

        del params  # part of MLflow's interface; there are none
        try:
            if not isinstance(data, pd.DataFrame):
                raise DataError(f"the request is no table of rows, but a {type(data).__name__}")
            require_columns(data, self.packed.columns)
            return self._service.predict(data)
        except DataError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error


def _load_pyfunc(path: str) -> ServedModel:
    """MLflow's entry: ``path`` is the packed file, or the folder that has it."""
    file = Path(path)
    file = file / FILE if file.is_dir() else file
    return ServedModel(PackedService.from_bytes(file.read_bytes(), name=file.name))
