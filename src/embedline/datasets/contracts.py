"""Checks of canonical frames when they are saved: the contract between the dataset pipelines and the learners."""

from collections.abc import Callable
from typing import Any

import narwhals as nw

from embedline.errors import DataError
from embedline.frames.parts import Plan
from embedline.frames.tables import describe_key, require_unique


class TableContract:
    """Catalog ``validator:`` for ``<source>.table``.

    Args:
        frame: name of the dataset, for the message.
        required, not_null: columns that must be there, and those without missing values.
        unique: columns whose combination identifies a row.
    """

    def __init__(
        self,
        frame: str,
        required: list[str] | None = None,
        unique: list[str] | None = None,
        not_null: list[str] | None = None,
    ) -> None:
        self.frame = frame
        self.required, self.unique, self.not_null = required or [], unique or [], not_null or []

    def validate(self, data: Any) -> Any:
        """Return ``data`` unchanged, or raise a DataError that names the column and shows an offending row.

        Of a lazy frame, which may be larger than the memory, only one row is collected. A plan checks each of its parts
        when it makes them: a key is in one part only.
        """
        if isinstance(data, Plan):
            return data.checked(self.check_part)
        if not self.check_part(data):
            raise DataError(f"{self.frame} has no rows")
        return data

    def check_part(self, data: Any) -> int:
        """Number of rows of a frame that holds what is asked of it; it may have none."""
        frame = nw.from_native(data)
        present = frame.collect_schema().names()
        missing = [name for name in (*self.required, *self.unique, *self.not_null) if name not in present]
        if missing:
            raise DataError(f"{self.frame} has no column {', '.join(map(repr, dict.fromkeys(missing)))}")
        counts = [nw.col(name).null_count().alias(f"{name} missing") for name in self.not_null]
        n_rows, *nulls = frame.select(nw.len().alias("rows"), *counts).lazy().collect().row(0)
        for name, n_missing in zip(self.not_null, nulls, strict=True):
            if n_missing:
                raise DataError(f"{self.frame}: column {name!r} has {n_missing} missing values")
        if self.unique and (isinstance(frame, nw.LazyFrame) or not _rises(frame, self.unique)):
            require_unique(frame, self.unique, name=self.frame)
        return int(n_rows)


class _NamedContract:
    """A contract of fixed columns; ``frame`` is the name of the dataset, for the message."""

    def __init__(self, frame: str) -> None:
        self.frame = frame

    def _require_type(
        self, frame: nw.DataFrame[Any], name: str, accepts: Callable[[nw.dtypes.DType], bool], noun: str
    ) -> None:
        if not accepts(dtype := frame.schema[name]):
            raise DataError(f"{self.frame}: column {name!r} has the type {dtype}; it holds {noun}")


class DocumentsContract(_NamedContract):
    """Catalog ``validator:`` for ``<source>.documents``: the columns below, all text; further ones may be there."""

    columns = ("document_id", "text", "label", "split")
    splits = ("train", "test", "unlabelled")

    def validate(self, data: Any) -> Any:
        """Return ``data`` unchanged, or raise a DataError that names the column and an offending document.

        Ids are unique; only the labels of unlabelled documents are missing; each split is one of `splits`.
        """
        columns = nw.from_native(data).collect_schema().names()
        if "part" in columns and "split" not in columns:
            raise DataError(f"{self.frame} has a column 'part' and no column 'split': rename 'part' to 'split'")
        keys = ["document_id", "text", "split"]
        TableContract(self.frame, required=list(self.columns), unique=["document_id"], not_null=keys).validate(data)
        frame = nw.from_native(data, eager_only=True)
        for name in self.columns:
            if name != "label" or not frame.get_column(name).is_null().all():  # pandas has no type for an empty column
                self._require_type(frame, name, lambda dtype: dtype == nw.String, "text")
        split, label = nw.col("split"), nw.col("label")
        faults = {
            f"a split that is none of {', '.join(self.splits)}": ~split.is_in(self.splits),
            "no label, which the splits train and test need": (split != "unlabelled") & label.is_null(),
            "a label, which the split unlabelled must not have": (split == "unlabelled") & ~label.is_null(),
        }
        for fault, is_faulty in faults.items():
            faulty = frame.filter(is_faulty).head(1)
            if len(faulty):
                row = faulty.select("document_id", "label", "split").rows(named=True)[0]
                raise DataError(f"{self.frame}: {row} has {fault}")
        return data


class ImagesContract(_NamedContract):
    """Catalog ``validator:`` for ``<source>.images``: the columns below and one a target or more, all text."""

    columns = ("image_id", "path", "split")
    splits = ("train", "test", "unlabelled")

    def validate(self, data: Any) -> Any:
        """Return ``data`` unchanged, or raise a DataError that names the column and an offending picture.

        Ids are unique; only the labels of unlabelled pictures are missing; each split is one of `splits`.
        """
        keys = list(self.columns)
        TableContract(self.frame, required=keys, unique=["image_id"], not_null=keys).validate(data)
        frame = nw.from_native(data, eager_only=True)
        targets = [name for name in frame.columns if name not in self.columns]
        if not targets:
            raise DataError(f"{self.frame} has no column of labels beside {', '.join(self.columns)}")
        for name in frame.columns:
            self._require_type(frame, name, lambda dtype: dtype == nw.String, "text")
        faults = {f"a split that is none of {', '.join(self.splits)}": ~nw.col("split").is_in(self.splits)}
        for name in targets:
            faults[f"no {name}, which the splits train and test need"] = nw.col(name).is_null() & (
                nw.col("split") != "unlabelled"
            )
        for fault, is_faulty in faults.items():
            faulty = frame.filter(is_faulty).head(1)
            if len(faulty):
                raise DataError(f"{self.frame}: {faulty.rows(named=True)[0]} has {fault}")
        return data


class RatingsContract(_NamedContract):
    """Catalog ``validator:`` for ``<source>.ratings``: a row a rating, no user and item twice.

    ``user`` and ``item`` are text or whole numbers, ``rating`` is a finite number. ``timestamp``, where it is there, is
    whole seconds since 1970 or a date, and may be missing in rows. Further columns may be there.
    """

    columns = ("user", "item", "rating")

    def validate(self, data: Any) -> Any:
        """Return ``data`` unchanged, or raise a DataError that names the column and an offending row."""
        frame = nw.from_native(data, eager_only=True)
        keys = ["user", "item"]
        TableContract(self.frame, required=list(self.columns), not_null=list(self.columns)).validate(data)
        for name in keys:
            self._require_type(frame, name, _is_id, "text or whole numbers")
        self._require_type(frame, "rating", lambda dtype: dtype.is_numeric(), "numbers")
        if "timestamp" in frame.columns and not frame.get_column("timestamp").is_null().all():
            self._require_type(frame, "timestamp", _is_time, "whole seconds since 1970 or dates")
        if frame.schema["rating"].is_float():
            infinite = frame.filter(~nw.col("rating").is_finite()).head(1)
            if len(infinite):
                row = infinite.select(*self.columns).rows(named=True)[0]
                raise DataError(f"{self.frame}: {row} has a rating that is not finite")
        # Not TableContract's check: that hashes all pairs, which takes 4 GB for 25 million ratings; sorting takes 1 GB.
        text = [name for name in keys if frame.schema[name] == nw.Categorical]  # pandas does not sort categories
        pairs = frame.select(keys).with_columns(nw.col(name).cast(nw.String) for name in text)
        if not _rises(pairs, keys) and not _rises(pairs.sort(keys), keys):
            example = pairs.filter(pairs.is_duplicated()).rows(named=True)[0]
            raise DataError(f"{self.frame}: {describe_key(example)} occurs more than once")
        return data


class ItemsContract(_NamedContract):
    """Catalog ``validator:`` for ``<source>.items``, a row an item: ``item``, ``title``, ``genres`` (lists of text).

    An item without a genre has an empty list. Further columns may be there.
    """

    columns = ("item", "title", "genres")

    def validate(self, data: Any) -> Any:
        """Return ``data`` unchanged, or raise a DataError that names the column and an offending row."""
        columns = list(self.columns)
        TableContract(self.frame, required=columns, unique=["item"], not_null=columns).validate(data)
        frame = nw.from_native(data, eager_only=True)
        self._require_type(frame, "item", _is_id, "text or whole numbers")
        self._require_type(frame, "title", lambda dtype: dtype == nw.String, "text")
        # pandas keeps lists as objects of unknown content
        self._require_type(frame, "genres", lambda dtype: dtype in (nw.List(nw.String), nw.Object), "lists of text")
        return data


def _is_id(dtype: nw.dtypes.DType) -> bool:
    return dtype.is_integer() or dtype in (nw.String, nw.Categorical)


def _is_time(dtype: nw.dtypes.DType) -> bool:
    return dtype.is_integer() or dtype in (nw.Date, nw.Datetime)


def _rises(frame: nw.DataFrame[Any], keys: list[str]) -> bool:
    """Whether the keys rise from row to row: a sorted frame is checked for duplicates without hashing."""
    later = nw.lit(False)
    for name in reversed(keys):
        column, previous = nw.col(name), nw.col(name).shift(1)
        later = (column > previous) | ((column == previous) & later)
    return bool(frame.select(later.alias("later"))["later"].tail(-1).all())
