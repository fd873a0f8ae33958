"""The files of labelled pictures, and what their folders, names or a table say of each: ``<source>.images``."""

import fnmatch
import logging
import posixpath
import re
from collections.abc import Iterable, Sequence
from typing import Literal, Self

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from embedline.archive import files_frame, first_names, select_members
from embedline.errors import DataError
from embedline.pipelines.images.examples import ID, TEST, TRAIN
from embedline.pipelines.imdb.tables import decode_strictly, read_delimited

logger = logging.getLogger(__name__)

PICTURES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff")
TABLES = (".csv", ".tsv")
SPLITS = {TRAIN: TRAIN, "training": TRAIN, "test": TEST, "testing": TEST, "valid": TEST, "val": TEST}


class ReadingOptions(BaseModel):
    """``params:<source>.reading``: how files become labelled pictures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Literal["auto", "folders", "table", "names"] = "auto"
    """``folders``: ``<split>/<label>/<name>`` or ``<label>/<name>``; ``table``: a CSV or TSV file with a picture a row;
    ``names``: the files' names, by ``pattern``. ``auto``: ``names`` with a pattern, else ``table`` where there is one
    table, else ``folders``."""
    pictures: str | None = None
    """Only pictures whose path fits, such as ``*/train_images/*``; paths start below the archive or folder."""
    pattern: str | None = None
    r"""Regular expression for a file's name, such as ``(.+)_\d+\.jpg``. Its groups are the targets, in their order."""
    table: str | None = None
    """Path of the table, such as ``*/labels.csv``; None: the only one."""
    image_column: str = "image_id"
    """Column with the path of a picture, or the end of one, with or without suffix."""
    split_column: str | None = None
    """Column that says ``train`` or ``test``; None: all rows are train."""
    splits: dict[str, Literal["train", "test"]] = {}
    """Names of folders or values of ``split_column`` beside ``train``, ``test`` and ``valid``, and what they mean."""
    on_unmatched: Literal["error", "skip"] = "error"
    """What to do with a row without a picture, and a picture without a label."""
    test_fraction: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Fraction of each class (of the first target) that becomes the split test, for pictures without one."""
    seed: int = Field(default=0, ge=0)

    @field_validator("pattern")
    @classmethod
    def _check_pattern(cls, pattern: str | None) -> str | None:
        try:
            if pattern is not None and not re.compile(pattern).groups:
                raise ValueError(f"the pattern {pattern!r} has no group (…) for the label")
        except re.error as error:
            raise ValueError(f"the pattern {pattern!r} is no regular expression: {error}") from error
        return pattern

    @model_validator(mode="after")
    def _check_layout(self) -> Self:
        if self.layout == "names" and self.pattern is None:
            raise ValueError("layout names needs a pattern")
        return self

    def find_split(self, name: str) -> str | None:
        """The split that a folder or a value means; None if it means none."""
        return {**SPLITS, **{key.lower(): split for key, split in self.splits.items()}}.get(name.lower())


def read_files(source: str) -> pl.DataFrame:
    """The pictures and tables behind an address as one frame, verbatim: ``path`` and ``content`` (Binary).

    Hidden files are left out. No picture at all is a DataError.
    """
    contents, held = select_members(source, _is_wanted)
    if not any(name.lower().endswith(PICTURES) for name in contents):
        raise DataError(f"{source} holds no picture ({', '.join(PICTURES)}); it holds {held}")
    return files_frame(contents)


def _is_wanted(member: str) -> bool:
    hidden = any(step.startswith(".") or step == "__MACOSX" for step in member.split("/"))
    return not hidden and member.lower().endswith((*PICTURES, *TABLES))


def read_images(files: pl.DataFrame, options: ReadingOptions, targets: Sequence[str]) -> pl.DataFrame:
    """Split and labels of each picture, given the files as of :func:`read_files`.

    Returns:
        ``image_id`` (the path without the folder that all share), ``path`` (of the row in ``files``), ``split`` (train
        or test) and a String column for each of ``targets``; sorted by path.

    Raises:
        DataError: no file fits the layout; a row has no picture or a picture no label, unless these are skipped; a
            table lacks a column or names a picture twice; a path ends several pictures; a label or split is missing.
    """
    paths = files["path"].to_list()
    wanted = [path for path in paths if path.lower().endswith(PICTURES) and _fits(path, options.pictures)]
    tables = [path for path in paths if path.lower().endswith(TABLES) and _fits(path, options.table)]
    layout = options.layout
    if layout == "auto":
        is_table = options.table is not None or len(tables) == 1
        layout = "names" if options.pattern is not None else "table" if is_table else "folders"
    if not wanted:
        raise DataError(f"no picture fits reading.pictures {options.pictures!r}; there are {first_names(paths)}")
    if layout == "table":
        if len(tables) != 1:
            named = first_names(tables) or "none"
            raise DataError(f"reading.table {options.table!r} has to fit one table (.csv, .tsv), and fits {named}")
        content = files.filter(pl.col("path") == tables[0])["content"][0]
        found = _of_table(content, tables[0], wanted, options, targets)
    else:
        found = _of_paths(wanted, layout, options, targets)
    _report_unmatched(set(wanted) - set(found["path"]), "picture", "label", options)
    if found.is_empty():
        raise DataError(f"no picture has a label in the layout {layout!r}; there are {first_names(wanted)}")
    root = _common_folder(found["path"].to_list())
    images = found.select(pl.col("path").str.slice(len(root)).alias(ID), "path", "split", *targets).sort("path")
    images = _with_test_split(images, options, targets[0]) if options.test_fraction else images
    counts = images.group_by("split").len().sort("split", descending=True).rows()
    logger.info("Read %s: %s", f"{len(images):,} pictures", ", ".join(f"{split} {n:,}" for split, n in counts))
    return images


def _fits(path: str, pattern: str | None) -> bool:
    return pattern is None or fnmatch.fnmatchcase(path, pattern)


def _of_paths(paths: Sequence[str], layout: str, options: ReadingOptions, targets: Sequence[str]) -> pl.DataFrame:
    pattern = re.compile(options.pattern or "")
    n_labels = pattern.groups if layout == "names" else 1
    if n_labels != len(targets):
        raise DataError(f"the layout {layout!r} gives {n_labels} label(s), and targets lists {', '.join(targets)}")
    rows = []
    for path in paths:
        *folders, name = path.split("/")
        split = next(filter(None, map(options.find_split, reversed(folders))), TRAIN)
        if layout == "names":
            match = pattern.fullmatch(name)
            labels = match.groups() if match else ()
        else:
            labels = tuple(folders[-1:]) if folders and options.find_split(folders[-1]) is None else ()
        if labels and all(labels):
            rows.append((path, split, *labels))
    return pl.DataFrame(rows, schema=dict.fromkeys(("path", "split", *targets), pl.String), orient="row")


def _of_table(
    content: bytes, name: str, paths: Sequence[str], options: ReadingOptions, targets: Sequence[str]
) -> pl.DataFrame:
    text = decode_strictly(content, name, "utf-8", "save it in this encoding")
    table = read_delimited(text, name, separator="\t" if name.lower().endswith(".tsv") else ",")
    columns = [options.image_column, *targets, *([options.split_column] if options.split_column else [])]
    if missing := [column for column in columns if column not in table.columns]:
        raise DataError(f"{name} has no column {', '.join(map(repr, missing))}; it has {', '.join(table.columns)}")
    for column in columns:
        if nulls := table[column].null_count():
            row = table[column].is_null().arg_max()
            raise DataError(f"{name}: column {column!r} is empty in row {1 + (row or 0)}, and in {nulls - 1} more")
    if (twice := table[options.image_column].is_duplicated()).any():
        raise DataError(f"{name} names the picture {table[options.image_column].filter(twice)[0]!r} more than once")
    ends: dict[str, list[str]] = {}  # of each path, with and without suffix
    for path in paths:
        steps = path.split("/")
        for end in ("/".join(steps[start:]) for start in range(len(steps))):
            for key in {end, posixpath.splitext(end)[0]}:
                ends.setdefault(key, []).append(path)
    rows, absent = [], []
    for picture, *labels in table.select(columns).iter_rows():
        found = ends.get(picture, [])
        if len(found) > 1:
            raise DataError(f"{name}: {picture!r} fits {len(found)} pictures, such as {first_names(found)}")
        split = options.find_split(labels.pop()) if options.split_column else TRAIN
        if split is None:
            raise DataError(f"{name}: column {options.split_column!r} of {picture!r} means no split (add to splits)")
        if found:
            rows.append((found[0], split, *labels))
        else:
            absent.append(picture)
    _report_unmatched(absent, f"row of {name}", "picture", options)
    return pl.DataFrame(rows, schema=dict.fromkeys(("path", "split", *targets), pl.String), orient="row")


def _report_unmatched(names: Iterable[str], what: str, lacks: str, options: ReadingOptions) -> None:
    unmatched = sorted(names)
    if not unmatched:
        return
    text = f"{len(unmatched):,} {what}(s) have no {lacks}: {first_names(unmatched)}"
    if options.on_unmatched == "error":
        raise DataError(f"{text} (reading.on_unmatched: skip leaves them out)")
    logger.warning("%s; they are left out", text)


def _common_folder(paths: Sequence[str]) -> str:
    common = posixpath.commonpath([f"/{posixpath.dirname(path)}" for path in paths]).lstrip("/")
    return f"{common}/" if common else ""


def _with_test_split(images: pl.DataFrame, options: ReadingOptions, target: str) -> pl.DataFrame:
    """Draw the split test out of each class with two pictures or more."""
    if (images["split"] == TEST).any():
        raise DataError("reading.test_fraction is set, and the pictures have a split test already: set it to 0")
    generator, splits = np.random.default_rng(options.seed), np.full(len(images), TRAIN, dtype=object)
    for rows in images.with_row_index("row").group_by(target, maintain_order=True).agg("row")["row"]:
        count = min(max(1, round(options.test_fraction * len(rows))), len(rows) - 1)
        splits[generator.permutation(rows.to_numpy())[:count]] = TEST
    return images.with_columns(pl.Series("split", splits.tolist(), pl.String))
