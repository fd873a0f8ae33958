"""Kedro datasets of the project: each save is atomic, so that a killed or failed one never becomes a version."""

from embedline.datasets.bundle import Bundle
from embedline.datasets.files import (
    JSON,
    Bytes,
    Figure,
    PandasCSV,
    PandasFeather,
    PandasParquet,
    PolarsFrame,
)
from embedline.datasets.service import Champion, Service

__all__ = [
    "JSON",
    "Bundle",
    "Bytes",
    "Champion",
    "Figure",
    "PandasCSV",
    "PandasFeather",
    "PandasParquet",
    "PolarsFrame",
    "Service",
]
