"""Kedro datasets of the project: each save is atomic, so that a killed or failed one never becomes a version."""

from embedline.datasets.files import (
    JSON,
    Arrays,
    Bytes,
    Figure,
    Page,
    PandasCSV,
    PandasFeather,
    PandasParquet,
    PolarsFrame,
)
from embedline.datasets.models import Bundle, Champion, Service, Study

__all__ = [
    "JSON",
    "Arrays",
    "Bundle",
    "Bytes",
    "Champion",
    "Figure",
    "Page",
    "PandasCSV",
    "PandasFeather",
    "PandasParquet",
    "PolarsFrame",
    "Service",
    "Study",
]
