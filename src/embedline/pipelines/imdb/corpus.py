"""A corpus of texts in files, folders or tables: the Large Movie Review Dataset or your own, and its documents."""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Iterable

import numpy as np
import polars as pl

from embedline.archive import NotAnArchive, files_frame, first_names, read_file, select_members
from embedline.download import fetched
from embedline.errors import DataError
from embedline.pipelines.imdb.options import DocumentOptions
from embedline.pipelines.imdb.tables import decode, read_tables
from embedline.pipelines.text.documents import TEST, TRAIN, UNLABELLED

logger = logging.getLogger(__name__)

SCHEMA = {"document_id": pl.String, "text": pl.String, "label": pl.String, "split": pl.String}

TEXT_SUFFIX = ".txt"
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_KINDS = ", ".join((TEXT_SUFFIX, *TABLE_SUFFIXES))
_NO_REVIEWS = re.compile(r"(^|/)(urls_(pos|neg|unsup)|imdbEr|README)\.txt$")  # the real archive's other files

# Reviews in each folder of the Large Movie Review Dataset (Maas et al. 2011, "Learning word vectors for sentiment
# analysis"), according to its README.
ORIGINAL_COUNTS = dict.fromkeys(("train/neg", "train/pos", "test/neg", "test/pos"), 12_500) | {"train/unsup": 50_000}


def read_files(source: str, *, verify: bool = False) -> pl.DataFrame:
    """Return the files of a corpus as one frame, so that there are no 100,000 small files on disk.

    Args:
        source: the address or path of an archive or folder, see `embedline.archive.iter_members`; or of one text or
            table (`TABLE_SUFFIXES`), also with ``.gz``.
        verify: compare the number of reviews in each folder with `ORIGINAL_COUNTS`.

    Returns:
        ``path: String``, with forward slashes, relative, and ``content: Binary``, verbatim; sorted by path. Only text
        files and tables; hidden files and those in ``__MACOSX`` are left out. A source that cannot be read, has none of
        them or fails the comparison is a DataError that names the file or folder.
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
    counts = [(folder, found.get(folder, 0), count) for folder, count in ORIGINAL_COUNTS.items()]
    if wrong := [f"{folder}: {n:,} instead of {count:,} reviews" for folder, n, count in counts if n != count]:
        raise DataError(
            f"{source} is not the whole Large Movie Review Dataset: {'; '.join(wrong)} "
            "(for your own corpus set verify: false)"
        )


def read_documents(files: pl.DataFrame, options: DocumentOptions) -> pl.DataFrame:
    r"""Read every document of a corpus, given its files as of `read_files`, in the order of the files and their rows.

    The ``document_id`` of a text file is its path below the corpus without the suffix: ``train/pos/0_9``. The id of a
    table's row is the table's path and the row's number, or the value of ``id_column``. The text does not change (the
    token rules handle ``<br />`` and HTML entities), except that a byte-order mark is removed and ``\r\n`` becomes
    ``\n``. Blank documents (empty or white space) are dropped from the splits train and unlabelled, with a warning.
    They stay in the split test: every test document needs a prediction, and the accuracy would look better without.

    Returns:
        ``document_id: String`` (unique), ``text: String``, ``label: String`` (null in the split unlabelled only),
        ``split: String``, one of train, test, unlabelled.

    Raises:
        DataError: no file fits the layout; a file is not in the encoding (named, with the place of the byte); a table
            cannot be parsed or lacks a column; two documents have one id; a test row has no label; no document has any
            text; ``test_fraction`` is set and the source has a test split, or no label.
    """
    paths = files["path"].to_list()
    layout = _layout_of(paths, options) if options.layout == "auto" else options.layout
    if layout == "table":
        rows = [row for row, path in enumerate(paths) if path.lower().endswith(TABLE_SUFFIXES)]
        root = _common_folder([paths[row] for row in rows])
        contents = zip(rows, files["content"].gather(rows).to_list(), strict=True)
        documents = read_tables([(paths[row][len(root) :], content) for row, content in contents], options)
    else:
        places = _text_files(paths, layout, options)
        rows = places["row"].to_list()
        documents = places.with_columns(text=_decoded_texts(files[rows], options)).select(list(SCHEMA))
    taken = set(rows)
    if outside := [path for row, path in enumerate(paths) if row not in taken and not _NO_REVIEWS.search(path)]:
        logger.warning(
            "%s files are no documents in this layout and are ignored: %s", f"{len(outside):,}", first_names(outside)
        )
    if documents.is_empty():
        raise DataError(
            f"no document in the layout {layout!r} among the files {first_names(paths) or '(there are none)'}"
        )
    if (twice := documents["document_id"].is_duplicated()).any():
        raise DataError(f"the document {documents['document_id'].filter(twice)[0]!r} occurs more than once")
    if options.unwrap:
        documents = documents.with_columns(pl.col("text").str.replace_all(r"\s+", " ").str.strip_chars())
    documents = _without_blank(documents)
    documents = _with_test_split(documents, options) if options.test_fraction else documents
    counts = documents.group_by("split", "label").len().sort("split", "label", nulls_last=True)
    shown = (" ".join(filter(None, (split, label, f"{count:,}"))) for split, label, count in counts.iter_rows())
    logger.info("Read %s documents: %s", f"{len(documents):,}", ", ".join(shown))
    return documents


def _layout_of(paths: list[str], options: DocumentOptions) -> str:
    texts = [path for path in paths if path.lower().endswith(TEXT_SUFFIX)]
    if _split_roots(texts, options):
        return "splits"
    if any(path.lower().endswith(TABLE_SUFFIXES) for path in paths):
        return "table"
    root = _common_folder(texts)
    return "labels" if any("/" in path[len(root) :] for path in texts) else "bare"


def _text_files(paths: list[str], layout: str, options: DocumentOptions) -> pl.DataFrame:
    """Return row, id, label and split of each text file; files outside the layout are left out."""
    texts = [(row, path) for row, path in enumerate(paths) if path.lower().endswith(TEXT_SUFFIX)]
    names = [path for _, path in texts]
    root = _one_root(names, options) if layout == "splits" else _common_folder(names, above_files=layout == "labels")
    found = []
    for row, path in texts:
        document_id = posixpath.splitext(path[len(root) :])[0]
        place = _label_and_split(document_id.split("/")[:-1], layout, options) if path.startswith(root) else None
        if place:
            found.append((row, document_id, *place))
    schema = {"row": pl.Int64, "document_id": pl.String, "label": pl.String, "split": pl.String}
    return pl.DataFrame(found, schema=schema, orient="row")


def _label_and_split(folders: list[str], layout: str, options: DocumentOptions) -> tuple[str | None, str] | None:
    """Return what the folders of a text file mean; None where it lies outside the layout."""
    if layout == "bare":
        return None, UNLABELLED
    if not folders:
        return None
    split = UNLABELLED if folders[0] in options.unlabelled else options.find_split(folders[0])
    if layout == "labels":
        label, split = folders[0], UNLABELLED if split == UNLABELLED else TRAIN
    else:
        label = folders[1] if len(folders) > 1 else ""
    if split is None or (not label and split != UNLABELLED):
        return None
    return (None, UNLABELLED) if split == UNLABELLED or label in options.unlabelled else (label, split)


def _split_roots(names: Iterable[str], options: DocumentOptions) -> set[str]:
    """Return the outermost folders that hold ``<train or test>/<label>/<name>.txt``, with a closing slash."""
    roots = set()
    for steps in {tuple(name.split("/")[:-1]) for name in names}:
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
    """Return the folder that holds all files, with a closing slash; the one above, if ``above_files`` it is a label."""
    folders = {posixpath.dirname(name) for name in names}
    if not folders or "" in folders:
        return ""
    common = posixpath.commonpath(folders)
    if above_files and folders == {common}:
        common = posixpath.dirname(common)
    return f"{common}/" if common else ""


def _decoded_texts(files: pl.DataFrame, options: DocumentOptions) -> pl.Series:
    """Decode files (``path``, ``content``) to a series of String; line ends become ``\\n``."""
    names, contents = files["path"].to_list(), files["content"].to_list()
    decoded = [decode(content, name, options) for name, content in zip(names, contents, strict=True)]
    if bad := [name for name, (_, is_sound) in zip(names, decoded, strict=True) if not is_sound]:
        logger.warning(
            "%s files are not %s and were read with on_bad_bytes %r: %s",
            *(f"{len(bad):,}", options.encoding, options.on_bad_bytes, first_names(bad)),
        )
    return pl.Series([text for text, _ in decoded], dtype=pl.String).str.replace_all("\r\n", "\n", literal=True)


def _without_blank(documents: pl.DataFrame) -> pl.DataFrame:
    """Drop blank documents outside the split test and log them; see `read_documents` for the reason."""
    blank = documents["text"].str.strip_chars() == ""
    if not blank.any():
        return documents
    if blank.all():
        raise DataError(f"no document has any text: {first_names(documents['document_id'].to_list())} are blank")
    in_test = documents["split"] == TEST
    dropped, kept = (documents.filter(blank & rows)["document_id"].to_list() for rows in (~in_test, in_test))
    if dropped:
        logger.warning("Dropped %s blank documents: %s", f"{len(dropped):,}", first_names(dropped))
    if kept:
        logger.warning("%s blank documents stay in the test split: %s", f"{len(kept):,}", first_names(kept))
    return documents.filter(~blank | in_test)


def _with_test_split(documents: pl.DataFrame, options: DocumentOptions) -> pl.DataFrame:
    """Move a fraction of each label's training documents to the split test."""
    if (documents["split"] == TEST).any():
        raise DataError(f"test_fraction is {options.test_fraction}, but the source has a test split: set it to 0")
    train = documents.with_row_index("_row").filter(pl.col("split") == TRAIN)
    if train.is_empty():
        raise DataError(
            f"test_fraction is {options.test_fraction}, but no document has a label: set it to 0; a language model is "
            "measured on the fraction split.validation of the documents"
        )
    rng = np.random.default_rng(options.seed)
    held_out = np.zeros(len(documents), dtype=bool)
    for rows in train.group_by("label").agg("_row").sort("label")["_row"]:
        count = min(max(round(options.test_fraction * len(rows)), 1), len(rows) - 1)
        held_out[rng.permutation(rows.to_numpy())[:count]] = True
    split = pl.when(pl.Series(held_out)).then(pl.lit(TEST)).otherwise("split")
    return documents.with_columns(split.alias("split"))
