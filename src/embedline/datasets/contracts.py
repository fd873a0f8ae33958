"""Checks of canonical frames when they are saved: the contract between the dataset pipelines and the learners."""

from collections.abc import Callable
from typing import Any

import narwhals as nw

from embedline.errors import DataError


class TableContract:
    """Catalog ``validator:`` for ``<source>.table``.

    Args:
        frame: name of the dataset, for the message.
        required: columns that must be there.
        unique: columns whose combination identifies a row.
        not_null: columns without missing values.
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
        """Return ``data`` unchanged, or raise a DataError that names the column and shows an offending row."""
        frame = nw.from_native(data)
        if isinstance(frame, nw.LazyFrame):
            self._validate_lazily(frame)
            return data
        if frame.is_empty():
            raise DataError(f"{self.frame} has no rows")
        self._require_columns(frame.columns)
        for name in self.not_null:
            nulls = frame.get_column(name).null_count()
            if nulls:
                raise DataError(f"{self.frame}: column {name!r} has {nulls} missing values")
        if self.unique and not _rises(frame, self.unique):
            keys = frame.select(self.unique)
            if len(keys.unique()) < len(keys):
                example = keys.filter(keys.is_duplicated()).row(0)
                raise DataError(f"{self.frame}: {dict(zip(self.unique, example, strict=True))} occurs more than once")
        return data

    def _validate_lazily(self, frame: nw.LazyFrame[Any]) -> None:
        """The same for a frame that may be larger than the memory: only one row is collected."""
        self._require_columns(frame.collect_schema().names())
        nulls = [nw.col(name).null_count().alias(f"{name} missing") for name in self.not_null]
        n_rows, *missing = frame.select(nw.len().alias("rows"), *nulls).collect().row(0)
        if n_rows == 0:
            raise DataError(f"{self.frame} has no rows")
        for name, n_missing in zip(self.not_null, missing, strict=True):
            if n_missing:
                raise DataError(f"{self.frame}: column {name!r} has {n_missing} missing values")
        if self.unique:
            counts = frame.group_by(*self.unique).agg(nw.len().alias("rows"))
            repeated = counts.filter(nw.col("rows") > 1).select(self.unique).head(1).collect().rows(named=True)
            if repeated:
                raise DataError(f"{self.frame}: {repeated[0]} occurs more than once")

    def _require_columns(self, present: list[str]) -> None:
        missing = [name for name in (*self.required, *self.unique, *self.not_null) if name not in present]
        if missing:
            raise DataError(f"{self.frame} has no column {', '.join(map(repr, dict.fromkeys(missing)))}")


class DocumentsContract:
    """Catalog ``validator:`` for ``<source>.documents``: ``document_id``, ``text``, ``label`` and ``split``, all text.

    Args:
        frame: name of the dataset, for the message.
    """

    columns = ("document_id", "text", "label", "split")
    splits = ("train", "test", "unlabelled")

    def __init__(self, frame: str) -> None:
        self.frame = frame

    def validate(self, data: Any) -> Any:
        """Return ``data`` unchanged, or raise a DataError that names the column and an offending document.

        Ids are unique; only the labels of unlabelled documents are missing; each split is one of `splits`. More columns
        are allowed.
        """
        columns = nw.from_native(data).collect_schema().names()
        if "part" in columns and "split" not in columns:
            raise DataError(f"{self.frame} has a column 'part' and no column 'split': rename 'part' to 'split'")
        keys = ["document_id", "text", "split"]
        TableContract(self.frame, required=list(self.columns), unique=["document_id"], not_null=keys).validate(data)
        frame = nw.from_native(data, eager_only=True)
        for name in self.columns:
            dtype = frame.schema[name]
            empty = frame.get_column(name).null_count() == len(frame)
            if dtype != nw.String and not (name == "label" and empty):  # pandas has no type for an empty column
                raise DataError(f"{self.frame}: column {name!r} has the type {dtype}, not String")
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


class RatingsContract:
    """Catalog ``validator:`` for ``<source>.ratings``: a row a rating, no user and item twice.

    ``user`` and ``item`` are text or whole numbers, ``rating`` is a finite number. ``timestamp``, where it is there, is
    whole seconds since 1970 or a date, and may be missing in rows. Further columns may be there.

    Args:
        frame: name of the dataset, for the message.
    """

    columns = ("user", "item", "rating")

    def __init__(self, frame: str) -> None:
        self.frame = frame

    def validate(self, data: Any) -> Any:
        """Return ``data`` unchanged, or raise a DataError that names the column and an offending row."""
        frame = nw.from_native(data, eager_only=True)
        keys = ["user", "item"]
        TableContract(self.frame, required=list(self.columns), not_null=list(self.columns)).validate(data)
        for name in keys:
            _check_type(frame, name, _is_id, "text or whole numbers", self.frame)
        _check_type(frame, "rating", lambda dtype: dtype.is_numeric(), "numbers", self.frame)
        if "timestamp" in frame.columns and not frame.get_column("timestamp").is_null().all():
            _check_type(frame, "timestamp", _is_time, "whole seconds since 1970 or dates", self.frame)
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
            raise DataError(f"{self.frame}: {example} occurs more than once")
        return data


class ItemsContract:
    """Catalog ``validator:`` for ``<source>.items``, a row an item: ``item``, ``title``, ``genres`` (lists of text).

    An item without a genre has an empty list. Further columns may be there.

    Args:
        frame: name of the dataset, for the message.
    """

    columns = ("item", "title", "genres")

    def __init__(self, frame: str) -> None:
        self.frame = frame

    def validate(self, data: Any) -> Any:
        """Return ``data`` unchanged, or raise a DataError that names the column and an offending row."""
        columns = list(self.columns)
        TableContract(self.frame, required=columns, unique=["item"], not_null=columns).validate(data)
        frame = nw.from_native(data, eager_only=True)
        _check_type(frame, "item", _is_id, "text or whole numbers", self.frame)
        _check_type(frame, "title", lambda dtype: dtype == nw.String, "text", self.frame)
        _check_type(frame, "genres", _is_list_of_text, "lists of text", self.frame)
        return data


def _check_type(
    frame: nw.DataFrame[Any], name: str, accepts: Callable[[nw.dtypes.DType], bool], noun: str, dataset: str
) -> None:
    dtype = frame.schema[name]
    if not accepts(dtype):
        raise DataError(f"{dataset}: column {name!r} has the type {dtype}; it holds {noun}")


def _is_id(dtype: nw.dtypes.DType) -> bool:
    return dtype.is_integer() or dtype in (nw.String, nw.Categorical)


def _is_time(dtype: nw.dtypes.DType) -> bool:
    return dtype.is_integer() or dtype in (nw.Date, nw.Datetime)


def _is_list_of_text(dtype: nw.dtypes.DType) -> bool:
    return dtype in (nw.List(nw.String), nw.Object)  # pandas keeps lists as objects of unknown content


def _rises(frame: nw.DataFrame[Any], keys: list[str]) -> bool:
    """Whether the keys rise from row to row: a sorted frame is checked for duplicates without hashing."""
    later = nw.lit(False)
    for name in reversed(keys):
        column, previous = nw.col(name), nw.col(name).shift(1)
        later = (column > previous) | ((column == previous) & later)
    return bool(frame.select(later.alias("later"))["later"].tail(-1).all())
