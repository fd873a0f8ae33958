"""A service as an MLflow model: ``loader_module`` of the flavour ``python_function``, so nothing is pickled."""

from pathlib import Path
from typing import Any

import pandas as pd

from embedline.errors import DataError
from embedline.serving.columns import require_columns
from embedline.serving.service import Service

FILE = "service.zip"


class ServedModel:
    """The model that ``mlflow.pyfunc.load_model`` wraps: an error of a request is MLflow's 400, any other is a 5xx."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._scorer = service.open()

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Answer the rows ``data``; raise an MlflowException that says which column and row is at fault."""
        from mlflow.exceptions import MlflowException

        del params  # part of MLflow's interface; there are none
        try:
            if not isinstance(data, pd.DataFrame):
                raise DataError(f"the request is no table of rows, but a {type(data).__name__}")
            require_columns(data, self.service.columns)
            return self._scorer.predict(data)
        except DataError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error


def _load_pyfunc(path: str) -> ServedModel:
    """MLflow's entry: ``path`` is the file of the service, or the folder that holds it."""
    file = Path(path)
    file = file / FILE if file.is_dir() else file
    return ServedModel(Service.from_bytes(file.read_bytes(), name=file.name))
