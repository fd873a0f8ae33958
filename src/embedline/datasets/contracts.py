"""Checks of canonical frames when they are saved: the contract between the dataset pipelines and the learners."""

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
        frame = nw.from_native(data, eager_only=True)
        if frame.is_empty():
            raise DataError(f"{self.frame} has no rows")
        missing = [name for name in (*self.required, *self.unique, *self.not_null) if name not in frame.columns]
        if missing:
            raise DataError(f"{self.frame} has no column {', '.join(map(repr, dict.fromkeys(missing)))}")
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


class DocumentsContract:
    """Catalog ``validator:`` for ``<source>.documents``: ``document_id``, ``text``, ``label`` and ``part``, all text.

    Args:
        frame: name of the dataset, for the message.
    """

    columns = ("document_id", "text", "label", "part")
    parts = ("train", "test", "unlabelled")

    def __init__(self, frame: str) -> None:
        self.frame = frame

    def validate(self, data: Any) -> Any:
        """Return ``data`` unchanged, or raise a DataError that names the column and an offending document.

        Ids are unique; nothing is missing but the labels of unlabelled documents, which have none; parts are those of
        `parts`. Further columns may be there.
        """
        keys = ["document_id", "text", "part"]
        TableContract(self.frame, required=list(self.columns), unique=["document_id"], not_null=keys).validate(data)
        frame = nw.from_native(data, eager_only=True)
        for name in self.columns:
            dtype = frame.schema[name]
            empty = frame.get_column(name).null_count() == len(frame)
            if dtype != nw.String and not (name == "label" and empty):  # pandas has no type for a column of nothing
                raise DataError(f"{self.frame}: column {name!r} has the type {dtype}, not String")
        part, label = nw.col("part"), nw.col("label")
        faults = {
            f"a part that is none of {', '.join(self.parts)}": ~part.is_in(self.parts),
            "no label, which the parts train and test need": (part != "unlabelled") & label.is_null(),
            "a label, which the part unlabelled has not": (part == "unlabelled") & ~label.is_null(),
        }
        for fault, is_faulty in faults.items():
            faulty = frame.filter(is_faulty).head(1)
            if len(faulty):
                row = faulty.select("document_id", "label", "part").rows(named=True)[0]
                raise DataError(f"{self.frame}: {row} has {fault}")
        return data


def _rises(frame: nw.DataFrame[Any], keys: list[str]) -> bool:
    """Whether each row's keys come after those of the row before; a sorted frame need not be hashed to be unique."""
    later = nw.lit(False)
    for name in reversed(keys):
        column, previous = nw.col(name), nw.col(name).shift(1)
        later = (column > previous) | ((column == previous) & later)
    return bool(frame.select(later.alias("later"))["later"].tail(-1).all())
