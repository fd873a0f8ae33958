"""How the files of a corpus become documents."""

from __future__ import annotations

import codecs
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from embedline.training.options import Options

Split = Literal["train", "test", "unlabelled"]

DEFAULT_SPLITS: dict[str, Split] = {
    **{"train": "train", "training": "train", "test": "test", "testing": "test"},
    **{"unlabelled": "unlabelled", "unlabeled": "unlabelled"},
}
_RENAMED = {"parts": "splits", "part_column": "split_column"}


class DocumentOptions(Options):
    """``params:<source>.reading``. The Large Movie Review Dataset needs none of them."""

    layout: Literal["auto", "splits", "labels", "bare", "table"] = "auto"
    """``splits``: ``<split>/<label>/<name>.txt``; ``labels``: ``<label>/<name>.txt``, all of them train; ``bare``:
    text files without labels; ``table``: CSV, TSV, JSON lines or Parquet, a document a row. ``auto`` takes the first of
    ``splits``, ``table``, ``labels``, ``bare`` that the names of the files fit."""
    splits: dict[str, Split] = DEFAULT_SPLITS
    """Names of folders, files or values of the split column, in any case, and the split that each means; added to the
    defaults. ``{valid: test}`` and ``{"False": train, "True": test}`` (a column ``is_valid``) are examples."""
    unlabelled: tuple[str, ...] = ("unsup",)
    """Labels that mean "no label": their documents belong to the split ``unlabelled``, in every folder."""

    encoding: str = "utf-8"
    """Name of the files' encoding as Python knows it; a byte-order mark is dropped. Parquet is UTF-8 always."""
    on_bad_bytes: Literal["error", "replace", "latin-1"] = "error"
    """What to do with a file that is not in this encoding: stop, put U+FFFD for the wrong bytes, or read all of this
    one file as Latin-1, which no byte contradicts."""
    unwrap: bool = False
    """Whether white space, line breaks included, becomes a single space: for texts whose lines have a fixed width."""

    text_columns: tuple[str, ...] = Field(default=("text",), min_length=1)
    """Columns of a table that hold text. Of several, each follows fastai's field marker: ``xxfld 1 … xxfld 2 …``. In
    the token rules ``ulmfit`` it is a special token; in ``dl1``, which has none for it, an ordinary word."""
    label_column: str | None = "label"
    """None: no document has a label."""
    split_column: str | None = None
    """None: the split comes from the name of the table's file or folder (``train.csv``, ``test-00000.parquet``); train
    if no name means a split."""
    id_column: str | None = None
    """None: the id is the file and the row: ``reviews/17``; rows count from 1, without the header."""
    header: bool = True
    """False: the columns of a CSV or TSV file are called ``column_0``, ``column_1``, …"""
    separator: str | None = Field(default=None, min_length=1, max_length=1)
    """Character between the cells of a CSV or TSV file; None: a comma, in ``.tsv`` a tab."""

    quoting: bool | None = None
    """Whether cells of a CSV or TSV file may be quoted. False: quotation marks are ordinary characters. None: cells may
    be quoted, but a quoted cell of several lines is an error if each of its lines looks like a whole row."""

    test_fraction: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Fraction of each label's training documents that becomes the split ``test``, for a corpus without one: the
    evaluation needs it. Drawn with ``seed``: at least one document of each label with two, and never all of them. Of a
    corpus without labels none does: its language model is measured on ``split.validation``."""
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _refuse_old_names(cls, options: Any) -> Any:
        if isinstance(options, dict):
            renamed = [f"{old} is now called {new}" for old, new in _RENAMED.items() if old in options]
            if options.get("layout") == "parts":
                renamed.append("layout: parts is now called layout: splits")
            if renamed:
                raise ValueError("; ".join(renamed))
        return options

    @field_validator("splits")
    @classmethod
    def _with_defaults(cls, splits: dict[str, Split]) -> dict[str, Split]:
        return {**DEFAULT_SPLITS, **{name.lower(): split for name, split in splits.items()}}

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
        roles = [*self.text_columns, self.label_column, self.split_column, self.id_column]
        columns = [name for name in roles if name is not None]
        if repeated := sorted({name for name in columns if columns.count(name) > 1}):
            raise ValueError(f"the column {', '.join(map(repr, repeated))} has more than one role")
        return self

    def find_split(self, name: str) -> Split | None:
        """Return the split that a folder, a file or a value means; None if it means no split."""
        return self.splits.get(name.lower())
