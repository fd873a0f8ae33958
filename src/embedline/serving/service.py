"""A service: a model and all that it needs to answer requests, in one file.

The file is a zip of safetensors, Feather and JSON, without pickle or compression.
"""

import hashlib
import importlib
import io
import json
import zipfile
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self

import pandas as pd
import polars as pl

from embedline.errors import DataError
from embedline.serving.columns import InputColumn
from embedline.training.model_file import ModelBundle

Better = Literal["lower", "higher"]

FORMAT = "embedline-service-1"
MODEL, HEADER = "model.safetensors", "service.json"
_TABLES, _FEATHER = "tables/", ".feather"
_HEADER_KEYS = ("service", "settings", "columns", "example", "metadata")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # of each file in the zip: the same service has the same bytes whenever it is written


@dataclass(frozen=True)
class Score:
    """The metric by which two services of a source are compared; ``path`` are its keys in ``<source>.metrics``."""

    path: tuple[str, ...]
    value: float
    better: Better

    @property
    def name(self) -> str:
        """The path in words, ``targets.Sales.exp_rmspe``."""
        return ".".join(self.path)

    def beats(self, other: float) -> bool:
        """Whether the value is strictly better than ``other``; NaN beats nothing."""
        return self.value < other if self.better == "lower" else self.value > other


class Scorer(Protocol):
    """Answers the requests of a service; calls may come from several threads."""

    def __init__(self, service: "Service") -> None: ...

    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        """A row out for each row in, in their order; raises a DataError that names column and row (from 1)."""
        ...

    def measure(self, answers: pd.DataFrame, actual: pd.Series) -> Score:
        """The main metric of the ``answers`` to held-out rows, whose true values are ``actual`` [N]."""
        ...


@dataclass(frozen=True)
class Service:
    """A model and all that turns raw rows into its inputs.

    Attributes:
        service: dotted name of the class that answers, such as ``embedline.serving.ratings.RatingsService``.
        tables: frames by name that the service looks things up in.
        settings: JSON values that the service reads.
        columns, example: what a request has, and rows of one, JSON values.
        metadata: what is known beyond the answers: source, score, evaluation; JSON values.
    """

    service: str
    bundle: ModelBundle
    tables: dict[str, pl.DataFrame]
    settings: dict[str, Any]
    columns: tuple[InputColumn, ...]
    example: list[dict[str, Any]]
    metadata: dict[str, Any] = field(default_factory=dict)

    def open(self) -> Scorer:
        """Make the service ready to answer; raise a DataError where this version of the package has no such class."""
        module, _, name = self.service.rpartition(".")
        if module.split(".")[0] != __package__.split(".")[0]:  # a file must not decide what else is imported
            raise DataError(f"the service names {self.service!r}, which is no class of embedline")
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):  # a library that the class needs
                raise
            found = None
        if found is None:
            raise DataError(f"the service names {self.service!r}, which this version does not have")
        if not (isinstance(found, type) and hasattr(found, "predict") and hasattr(found, "measure")):
            raise DataError(f"the service names {self.service!r}, which is no service")
        scorer: Scorer = found(self)
        return scorer

    @property
    def identity(self) -> str:
        """SHA-256 of what decides the answers: not of the example, the metadata, or how long the training took."""
        digest = hashlib.sha256()
        fields = [self.service, self.settings, [column.model_dump() for column in self.columns]]
        mean = {name: self.bundle.metrics.get(name) for name in ("members", "member_weights")}  # of an ensemble
        if decisions := self.bundle.metrics.get("decisions"):
            mean["decisions"] = decisions
        digest.update(_json([*fields, self.bundle.kind, self.bundle.config, self.bundle.encoder, mean]))
        for name, tensor in sorted(self.bundle.weights.items()):
            array = tensor.detach().cpu().contiguous().numpy()
            digest.update(f"\0{name} {array.dtype} {array.shape}\0".encode())
            digest.update(array.tobytes())
        for name, table in sorted(self.tables.items()):
            digest.update(f"\0{name} {table.schema}\0".encode())
            digest.update(_feather(table))
        return digest.hexdigest()

    def to_bytes(self) -> bytes:
        """The file's content."""
        header = {
            "format": FORMAT,
            **{name: getattr(self, name) for name in _HEADER_KEYS if name != "columns"},
            "columns": [column.model_dump() for column in self.columns],
        }
        files = {HEADER: _json(header), MODEL: self.bundle.to_bytes()}
        files |= {f"{_TABLES}{name}{_FEATHER}": _feather(table) for name, table in self.tables.items()}
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for name, content in files.items():
                archive.writestr(zipfile.ZipInfo(name, _EPOCH), content)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, *, name: str = "the service") -> Self:
        """Read what :meth:`to_bytes` wrote; no service of this format is a DataError that starts with ``name``."""
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                files = {file: archive.read(file) for file in archive.namelist()}
            header = json.loads(files[HEADER])
            model = files[MODEL]
        except (zipfile.BadZipFile, KeyError, ValueError) as error:
            raise DataError(f"{name} is not a readable service file: {error}") from error
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            found = header.get("format") if isinstance(header, dict) else None
            raise DataError(f"{name} has the format {found!r}; this version reads {FORMAT!r}")
        if missing := [key for key in _HEADER_KEYS if key not in header]:
            raise DataError(f"{name} has no {', '.join(missing)}: it was not written by this library")
        tables = {
            file.removeprefix(_TABLES).removesuffix(_FEATHER): pl.read_ipc(io.BytesIO(content))
            for file, content in files.items()
            if file.startswith(_TABLES)
        }
        columns = tuple(InputColumn.model_validate(column) for column in header["columns"])
        bundle = ModelBundle.from_bytes(model, name=f"{MODEL} in {name}")
        fields = {key: header[key] for key in _HEADER_KEYS if key != "columns"}
        return cls(bundle=bundle, tables=tables, columns=columns, **fields)


def _feather(table: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.write_ipc(buffer)
    return buffer.getvalue()


def _json(values: Any) -> bytes:
    """Canonical JSON; raises ValueError for NaN, which JSON does not have."""
    return json.dumps(values, sort_keys=True, allow_nan=False).encode()
