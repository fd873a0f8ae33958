"""A corpus of texts in files, folders or tables: the Large Movie Review Dataset or your own, and its documents."""

from __future__ import annotations

import codecs
import logging
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl

from embedline.archive import NotAnArchive, files_frame, first_names, read_file, select_members
from embedline.download import fetched
from embedline.errors import DataError
from embedline.pipelines.imdb.options import TEST, TRAIN, UNLABELLED, DocumentOptions
from embedline.pipelines.imdb.tables import decode, read_tables

logger = logging.getLogger(__name__)

SCHEMA = {"document_id": pl.String, "text": pl.String, "label": pl.String, "split": pl.String}

TEXT_SUFFIX = ".txt"
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_KINDS = ", ".join((TEXT_SUFFIX, *TABLE_SUFFIXES))
_NO_REVIEWS = re.compile(r"(^|/)(urls_(pos|neg|unsup)|imdbEr|README)\.txt$")  # the real archive's other files

ORIGINAL_COUNTS = {
    "train/neg": 12_500,
    "train/pos": 12_500,
    "train/unsup": 50_000,
    "test/neg": 12_500,
    "test/pos": 12_500,
}
"""Number of reviews in each folder of the Large Movie Review Dataset (Maas et al. 2011, "Learning word vectors for
sentiment analysis"), according to its README."""


def read_files(source: str, *, verify: bool = False) -> pl.DataFrame:
    """Return the files of a corpus as one frame, so that there are no 100,000 small files on disk.

    Args:
        source: the address or path of an archive or folder, see `embedline.archive.iter_members`; or of one text or
            table (`TABLE_SUFFIXES`), also with ``.gz``.
        verify: compare the number of reviews in each folder with `ORIGINAL_COUNTS`.

    Returns:
        ``path: String``, with forward slashes, relative to the archive or folder, and ``content: Binary``, verbatim;
        sorted by path. Only text files and tables; hidden files and those in ``__MACOSX`` are left out.

    Raises:
        DataError: the source cannot be read, has no text file or table, or the comparison fails; names the file or
            folder.
    """
    files = files_frame(_contents(source))
    if verify:
        _check_counts(files, source)
    return files


def _contents(source: str) -> dict[str, bytes]:
    name = posixpath.basename(source.partition("?")[0].replace("\\", "/").rstrip("/"))
    if name.removesuffix(".gz").lower().endswith((*TABLE_SUFFIXES, TEXT_SUFFIX)):
        with fetched(source) as path:
            if path.is_file():
                return {name.removesuffix(".gz"): read_file(path, source)}
    try:
        contents, held = select_members(source, _is_wanted)
    except NotAnArchive as error:
        hint = "; write JSON with one object a line, as .jsonl" if ".json" in name.lower() else ""
        raise DataError(
            f"{error}; a corpus is an archive, a folder or one file of these kinds: {_KINDS}{hint}"
        ) from error
    if not contents:
        raise DataError(f"{source} holds no file of text ({_KINDS}); it holds {held}")
    return contents


def _is_wanted(member: str) -> bool:
    hidden = any(name.startswith(".") or name == "__MACOSX" for name in member.split("/"))
    return not hidden and member.lower().endswith((TEXT_SUFFIX, *TABLE_SUFFIXES))


def _check_counts(files: pl.DataFrame, source: str) -> None:
    """Raise a DataError unless each folder has as many reviews as the original dataset."""
    pattern = rf"(?:^|/)((?:train|test)/[^/]+)/[^/]+\{TEXT_SUFFIX}$"
    folders = files.select(folder=pl.col("path").str.extract(pattern)).drop_nulls()
    found = dict(folders.group_by("folder").len().rows())
    wrong = [
        f"{folder}: {found.get(folder, 0):,} instead of {count:,} reviews"
        for folder, count in ORIGINAL_COUNTS.items()
        if found.get(folder, 0) != count
    ]
    if wrong:
        raise DataError(
            f"{source} is not the whole Large Movie Review Dataset: {'; '.join(wrong)} "
            "(for your own corpus set verify: false)"
        )


@dataclass(frozen=True)
class _TextFile:
    """A document's row in the raw frame, and its id, label and split, which come from the path of its file."""

    row: int
    document_id: str
    label: str | None
    split: str


def read_documents(files: pl.DataFrame, options: DocumentOptions) -> pl.DataFrame:
    """Read every document of a corpus.

    The ``document_id`` of a text file is its path below the corpus without the suffix: ``train/pos/0_9``. The id of a
    table's row is the table's path and the row's number, or the value of ``id_column``. The text does not change (the
    token rules handle ``<br />`` and HTML entities), except that a byte-order mark is removed and ``\\r\\n`` becomes
    ``\\n``.

    **Blank documents** (empty or white space) are dropped from the splits train and unlabelled, with a warning that
    counts and names them. They stay in the split test: every test document needs a prediction, and the accuracy would
    look better without them.

    Args:
        files: ``path: String``, ``content: Binary``, see `read_files`.
        options: layout, encodings, columns, fraction to hold out.

    Returns:
        ``document_id: String`` (unique), ``text: String``, ``label: String`` (null in the split unlabelled only),
        ``split: String``, one of train, test, unlabelled; in the order of the files and their rows.

    Raises:
        DataError: no file fits the layout; a file is not in the encoding (named, with the place of the byte); a table
            cannot be parsed or lacks a column; two documents have one id; a test row has no label; no document has any
            text; ``test_fraction`` is set and the source has a test split.
    """
    paths = files["path"].to_list()
    layout = _layout_of(paths, options) if options.layout == "auto" else options.layout
    if layout == "table":
        tables = [row for row, path in enumerate(paths) if path.lower().endswith(TABLE_SUFFIXES)]
        _report_ignored(paths, tables)
        contents = zip((paths[row] for row in tables), files["content"].gather(tables).to_list(), strict=True)
        documents = read_tables(_below_root(contents), options)
    else:
        text_files = _text_files(paths, layout, options)
        _report_ignored(paths, [file.row for file in text_files])
        documents = _with_texts(files, text_files, options)
    if documents.is_empty():
        raise DataError(
            f"no document in the layout {layout!r} among the files {first_names(paths) or '(there are none)'}"
        )
    _require_unique(documents)
    documents = _without_blank(documents)
    documents = _with_test_split(documents, options) if options.test_fraction else documents
    _report_counts(documents)
    return documents


def _layout_of(paths: list[str], options: DocumentOptions) -> str:
    texts = [path for path in paths if path.lower().endswith(TEXT_SUFFIX)]
    if _split_roots(texts, options):
        return "splits"
    if any(path.lower().endswith(TABLE_SUFFIXES) for path in paths):
        return "table"
    root = _common_folder(texts)
    return "labels" if any("/" in path[len(root) :] for path in texts) else "bare"


def _text_files(paths: list[str], layout: str, options: DocumentOptions) -> list[_TextFile]:
    """Return the documents among the text files; files outside the layout are left out."""
    texts = [(row, path) for row, path in enumerate(paths) if path.lower().endswith(TEXT_SUFFIX)]
    names = [path for _, path in texts]
    root = _one_root(names, options) if layout == "splits" else _common_folder(names, above_files=layout == "labels")
    found = []
    for row, path in texts:
        if not path.startswith(root):
            continue
        document_id = posixpath.splitext(path[len(root) :])[0]
        folders = document_id.split("/")[:-1]
        if layout == "bare":
            found.append(_TextFile(row, document_id, None, UNLABELLED))
        elif layout == "labels" and folders:
            split = UNLABELLED if options.find_split(folders[0]) == UNLABELLED else TRAIN
            found.append(_text_file(row, document_id, folders[0], split, options))
        elif layout == "splits" and folders:
            named_split = UNLABELLED if folders[0] in options.unlabelled else options.find_split(folders[0])
            if named_split == UNLABELLED or (named_split and folders[1:]):
                found.append(_text_file(row, document_id, (folders[1:] or [""])[0], named_split, options))
    return found


def _text_file(row: int, document_id: str, label: str, split: str, options: DocumentOptions) -> _TextFile:
    if split == UNLABELLED or label in options.unlabelled:
        return _TextFile(row, document_id, None, UNLABELLED)
    return _TextFile(row, document_id, label, split)


def _split_roots(names: Iterable[str], options: DocumentOptions) -> set[str]:
    """Return the outermost folders that hold ``<train or test>/<label>/<name>.txt``, with a closing slash."""
    roots = set()
    for folder in {posixpath.dirname(name) for name in names}:
        steps = folder.split("/")
        for depth, step in enumerate(steps[:-1]):
            if options.find_split(step) in (TRAIN, TEST):
                roots.add("".join(f"{above}/" for above in steps[:depth]))
                break
    return roots


def _one_root(names: list[str], options: DocumentOptions) -> str:
    roots = _split_roots(names, options)
    if len(roots) > 1:
        folders = [root.rstrip("/") or "the top" for root in sorted(roots)]
        raise DataError(f"the source holds a corpus more than once: in {first_names(folders)}")
    if not roots:
        raise DataError(
            f"no text file lies in <split>/<label>/, as in train/pos/0_9.txt; there is {first_names(names) or 'none'}"
        )
    return roots.pop()


def _common_folder(names: list[str], *, above_files: bool = False) -> str:
    """Return the folder that holds all files, with a closing slash.

    ``above_files``: if all files lie in one folder, this folder is their label, and the one above it is returned.
    """
    folders = {posixpath.dirname(name) for name in names}
    if not folders or "" in folders:
        return ""
    common = posixpath.commonpath(folders)
    if above_files and folders == {common}:
        common = posixpath.dirname(common)
    return f"{common}/" if common else ""


def _below_root(contents: Iterable[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    files = list(contents)
    root = _common_folder([name for name, _ in files])
    return [(name[len(root) :], content) for name, content in files]


def _with_texts(files: pl.DataFrame, text_files: list[_TextFile], options: DocumentOptions) -> pl.DataFrame:
    rows = [file.row for file in text_files]
    columns = {
        "document_id": [file.document_id for file in text_files],
        "text": _decoded_texts(files[rows], options),
        "label": [file.label for file in text_files],
        "split": [file.split for file in text_files],
    }
    return pl.DataFrame(columns, schema=SCHEMA)


def _decoded_texts(files: pl.DataFrame, options: DocumentOptions) -> pl.Series:
    """Decode files (``path``, ``content``) to a series of String, without byte-order marks, with ``\\n`` as line ends.

    Raises:
        DataError: a file is not in ``options.encoding`` and ``on_bad_bytes`` is ``error``; names file and byte.
    """
    texts = None
    if codecs.lookup(options.encoding).name in ("utf-8", "utf-8-sig"):
        try:
            texts = files["content"].cast(pl.String)  # Polars validates the bytes without copies in Python
            if texts.str.contains("\0", literal=True).any():
                texts = None
        except pl.exceptions.ComputeError:
            logger.debug("Not every file is UTF-8: decoding them one by one")
    if texts is None:
        names, contents = files["path"].to_list(), files["content"].to_list()
        decoded = [decode(content, name, options) for name, content in zip(names, contents, strict=True)]
        texts = pl.Series([text for text, _ in decoded], dtype=pl.String)
        if bad := [name for name, (_, is_sound) in zip(names, decoded, strict=True) if not is_sound]:
            logger.warning(
                "%s files are not %s and were read with on_bad_bytes %r: %s",
                *(f"{len(bad):,}", options.encoding, options.on_bad_bytes, first_names(bad)),
            )
    return texts.str.strip_prefix("\ufeff").str.replace_all("\r\n", "\n", literal=True)


def _require_unique(documents: pl.DataFrame) -> None:
    if documents["document_id"].n_unique() < len(documents):
        twice = documents.filter(pl.col("document_id").is_duplicated())["document_id"][0]
        raise DataError(f"the document {twice!r} occurs more than once")


def _without_blank(documents: pl.DataFrame) -> pl.DataFrame:
    """Drop blank documents outside the split test and log them; see `read_documents` for the reason."""
    blank = documents["text"].str.strip_chars() == ""
    if not blank.any():
        return documents
    if blank.all():
        raise DataError(f"no document has any text: {first_names(documents['document_id'].to_list())} are blank")
    in_test = documents["split"] == TEST
    dropped = documents.filter(blank & ~in_test)["document_id"].to_list()
    kept = documents.filter(blank & in_test)["document_id"].to_list()
    if dropped:
        logger.warning("Dropped %s blank documents: %s", f"{len(dropped):,}", first_names(dropped))
    if kept:
        logger.warning("%s blank documents stay in the test split: %s", f"{len(kept):,}", first_names(kept))
    return documents.filter(~blank | in_test)


def _with_test_split(documents: pl.DataFrame, options: DocumentOptions) -> pl.DataFrame:
    """Move a fraction of each label's training documents to the split test."""
    if (documents["split"] == TEST).any():
        raise DataError(f"test_fraction is {options.test_fraction}, but the source has a test split: set it to 0")
    labels, trains = documents["label"].to_numpy(), (documents["split"] == TRAIN).to_numpy()
    rng = np.random.default_rng(options.seed)
    held_out = np.zeros(len(documents), dtype=bool)
    for label in documents.filter(trains)["label"].unique().sort():
        rows = np.flatnonzero(trains & (labels == label))
        count = min(max(round(options.test_fraction * len(rows)), 1), len(rows) - 1)
        held_out[rng.permutation(rows)[:count]] = True
    split = pl.when(pl.Series(held_out)).then(pl.lit(TEST)).otherwise("split")
    return documents.with_columns(split.alias("split"))


def _report_ignored(paths: list[str], rows: list[int]) -> None:
    taken = set(rows)
    ignored = [path for row, path in enumerate(paths) if row not in taken and not _NO_REVIEWS.search(path)]
    if ignored:
        logger.warning(
            "%s files are no documents in this layout and are ignored: %s", f"{len(ignored):,}", first_names(ignored)
        )


def _report_counts(documents: pl.DataFrame) -> None:
    counts = documents.group_by("split", "label").len().sort("split", "label", nulls_last=True)
    shown = ", ".join(
        " ".join(filter(None, (split, label, f"{count:,}"))) for split, label, count in counts.iter_rows()
    )
    logger.info("Read %s documents: %s", f"{len(documents):,}", shown)
