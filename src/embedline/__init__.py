"""embedline: train, compare and serve neural networks on tables, texts and ratings.

>>> from embedline import TabularClassifier, TabularRegressor, TextClassifier, LanguageModel, Recommender
"""

import importlib
import logging
import os
import warnings
from typing import Any

import kedro_incremental  # noqa: F401  # before all else of the project: it sees what is imported from here on
from embedline.redaction import filter_log_records

__version__ = "0.1.0"

_ESTIMATORS = ("LanguageModel", "Recommender", "TabularClassifier", "TabularRegressor", "TextClassifier")


def __getattr__(name: str) -> Any:
    """Load the estimators when they are asked for: they import PyTorch and scikit-learn."""
    if name not in _ESTIMATORS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.api"), name)


# OpenMP's threads spin while they wait for each other. Where other programs share the cores, a training or a LightGBM
# fit then takes up to ten times as long; sleeping costs little where it has them to itself. Read when PyTorch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Warnings of the tool chain that no user of this project can act on, a screen of them in every run. They are silenced
# here because this is the only module of the project that Kedro imports before its plugins.
for _message in (
    r"register_new_resolver\(\) is deprecated",  # omegaconf 2.4, of kedro 1.7's own resolvers
    r"Accessing the 'model_fields' attribute on the instance",  # pydantic, of kedro 1.7's parameter validation
    r"One or more dataset names contain '\.'",  # kedro 1.7, of a table that another namespace reads
):
    warnings.filterwarnings("ignore", message=_message)

# One that mlflow 3 has kedro-mlflow's model class raise, and puts above the filters of `warnings`.
_TYPE_HINTS = "Add type hints to the `predict` method"
logging.getLogger("py.warnings").addFilter(lambda record: _TYPE_HINTS not in record.getMessage())

filter_log_records()
