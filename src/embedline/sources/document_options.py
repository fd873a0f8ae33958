"""How the files of a corpus become documents: the options of `document_layouts` and `document_tables`."""

from __future__ import annotations

import codecs
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

TRAIN, TEST, UNLABELLED = "train", "test", "unlabelled"
Part = Literal["train", "test", "unlabelled"]

DEFAULT_PARTS: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "unlabelled": "unlabelled",
    "unlabeled": "unlabelled",
}


class DocumentOptions(BaseModel):
    """``params:<source>.reading``. The Large Movie Review Dataset needs none of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Literal["auto", "parts", "labels", "bare", "table"] = "auto"
    """``parts``: ``<part>/<label>/<name>.txt``; ``labels``: ``<label>/<name>.txt``, all of them train; ``bare``:
    text files without labels; ``table``: CSV, TSV, JSON lines or Parquet, a document a row. ``auto`` takes the first of
    ``parts``, ``table``, ``labels``, ``bare`` that the names of the files fit."""
    parts: dict[str, Part] = DEFAULT_PARTS
    """Names of folders, files or values of the part column, in any case, and the part that each means; added to the
    defaults. ``{valid: test}`` and ``{"False": train, "True": test}`` (a column ``is_valid``) are examples."""
    unlabelled: tuple[str, ...] = ("unsup",)
    """Labels that mean "none": their documents belong to the part ``unlabelled``, wherever they stand."""

    encoding: str = "utf-8"
    """Name of the files' encoding as Python knows it; a byte-order mark is dropped. Parquet is UTF-8 always."""
    on_bad_bytes: Literal["error", "replace", "latin-1"] = "error"
    """What to do with a file that is not in this encoding: stop, put U+FFFD for the wrong bytes, or read all of this
    one file as Latin-1, which no byte contradicts."""

    text_columns: tuple[str, ...] = Field(default=("text",), min_length=1)
    """Columns of a table that hold text. Of several, each follows fastai's field marker: ``xxfld 1 … xxfld 2 …``."""
    label_column: str | None = "label"
    """None: no document has a label."""
    part_column: str | None = None
    """None: the name of a table's file or folder says its part (``train.csv``, ``test-00000.parquet``), else train."""
    id_column: str | None = None
    """None: documents are called by file and row: ``reviews/17``, rows from 1, the header not counted."""
    header: bool = True
    """False: the columns of a CSV or TSV file are called ``column_0``, ``column_1``, …"""
    separator: str | None = Field(default=None, min_length=1, max_length=1)
    """Between the cells of a CSV or TSV file; None: a comma, in ``.tsv`` a tab."""

    quoting: bool | None = None
    """Whether cells of a CSV or TSV file may stand in quotation marks. False: these are characters like any other.
    None: they may, but a quoted cell of several lines is refused where each of them looks like a whole row."""

    test_fraction: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of each label's training documents that becomes the part ``test``, for a corpus without one: an evaluation
    needs it. Drawn with ``seed``; at least one document of a label that has two, never the last one."""
    seed: int = Field(default=0, ge=0)

    @field_validator("parts")
    @classmethod
    def _with_defaults(cls, parts: dict[str, Part]) -> dict[str, Part]:
        return {**DEFAULT_PARTS, **{name.lower(): part for name, part in parts.items()}}

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, name: str) -> str:
        try:
            codecs.lookup(name)
            b"ab".decode(name, "replace")
        except LookupError as error:
            raise ValueError(f"{error}; examples are utf-8, utf-16, latin-1, cp1252") from error
        return name

    @model_validator(mode="after")
    def _columns_once(self) -> Self:
        roles = [*self.text_columns, self.label_column, self.part_column, self.id_column]
        columns = [name for name in roles if name is not None]
        if repeated := sorted({name for name in columns if columns.count(name) > 1}):
            raise ValueError(f"the column {', '.join(map(repr, repeated))} has more than one role")
        return self

    def subset(self, name: str) -> Part | None:
        """Return the part that a folder, file or value means, None when it means none."""
        return self.parts.get(name.lower())
