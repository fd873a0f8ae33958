"""Tokenize documents in parallel processes: rules, then spaCy. Tokens are integer codes, not strings.

A token's code is its row in the lexicon, which lists all distinct tokens, most frequent first, ties by string. Codes
therefore depend only on the corpus, not on the number or the speed of the processes. The tokens of all documents are
one flat array with offsets, and become a list column without one Python object for each token.
"""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from embedline.errors import DataError
from embedline.pipelines.text.preprocessing import RuleName

if TYPE_CHECKING:
    from embedline.pipelines.text.spacy_cache import CachedTokenizer

IN_PROCESS = 4_000_000  # characters that one process tokenizes in the time that a pool takes to start
BATCH = 400_000  # characters of a batch, the unit of work of a process
_MAX_PROCESSES = 61  # limit of Windows
WAITING = 3  # submitted batches for each process
# Tokens in the lexicon of the tokenizer for a few texts before it is replaced: the memory of a server must not grow.
MAX_LEXICON = 1_000_000

_encoding = threading.Lock()  # one thread at a time may use a tokenizer

Flat = tuple[NDArray[np.int32], NDArray[np.int64]]


class TokenOptions(BaseModel):
    """Settings of the tokenizer; ``workers`` is the number of processes, one for each core if None."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: RuleName = "ulmfit"
    workers: int | None = Field(default=None, ge=1)

    @property
    def processes(self) -> int:
        """Number of processes: ``workers``, or the number of cores that this process may use."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(self.workers or cores, _MAX_PROCESSES)


def tokenize_documents(documents: pl.DataFrame, options: TokenOptions) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Tokenize documents; return their token codes, and the lexicon that the codes are rows of.

    Args:
        documents: ``document_id``, ``text``, ``label`` and ``split``.

    Returns:
        ``document_id, label, split, tokens: List(Int32)`` in the same order, and the lexicon ``token: String``.

    Raises:
        DataError: names the document: its text is null, or spaCy cannot tokenize it.
    """
    empty = documents.filter(pl.col("text").is_null())
    if len(empty):
        raise DataError(f"document {empty['document_id'][0]!r} has no text (null); an empty text is an empty string")
    names = documents["document_id"].cast(pl.String).to_list()
    (codes, offsets), lexicon = tokenize(documents["text"].to_list(), options, names)
    tokens = documents.select("document_id", "label", "split").with_columns(list_column("tokens", codes, offsets))
    return tokens, pl.DataFrame({"token": lexicon}, schema={"token": pl.String})


def tokenize(texts: Sequence[str], options: TokenOptions, names: Sequence[str] | None = None) -> tuple[Flat, list[str]]:
    """Tokenize texts; return the token codes of all texts, concatenated, and the lexicon.

    Args:
        names: names of the texts for messages; None: their numbers.

    Returns:
        ``(codes int32 [T], offsets int64 [N + 1])``, text ``i`` is ``codes[offsets[i]:offsets[i + 1]]``; the lexicon:
        all distinct tokens, most frequent first, ties by string.
    """
    from tqdm.auto import tqdm

    names = [str(number) for number in range(len(texts))] if names is None else names
    batches = _batches(texts, names)
    # A daemonic process must not start children.
    alone = multiprocessing.current_process().daemon or options.processes == 1
    alone = alone or sum(map(len, texts)) <= IN_PROCESS
    results = _encode_here(batches, options) if alone else _encode_in_pool(batches, options)
    batch_codes: list[tuple[int, NDArray[np.int32]]] = []
    lengths: list[NDArray[np.int64]] = []
    found: dict[int, list[str]] = {}  # the lexicon of each process, in the order of its codes
    with tqdm(total=len(texts), desc="tokens", unit="document", disable=None) as bar, closing(results):
        for process, codes, counts, new in results:
            found.setdefault(process, []).extend(new)
            batch_codes.append((process, codes))
            lengths.append(counts)
            bar.update(len(counts))
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(np.concatenate(lengths) if lengths else offsets[:0], out=offsets[1:])
    codes, lexicon = _merge(batch_codes, found)
    return (codes, offsets), lexicon


def tokenize_texts(texts: Sequence[str], options: TokenOptions) -> list[list[str]]:
    """Tokenize a few texts into strings, in this process: for prediction. The first call loads spaCy."""
    found = []
    with _encoding:
        tokenizer = _tokenizer(options.rules)
        for number, text in enumerate(texts):
            codes = _encode(tokenizer, text, str(number))
            found.append([tokenizer.lexicon[code] for code in codes])
        if len(tokenizer.lexicon) > MAX_LEXICON:
            _tokenizer.cache_clear()
    return found


def list_column(name: str, values: NDArray[np.generic], offsets: NDArray[np.int64]) -> pl.Series:
    """Build a list column from arrays: row ``i`` is ``values[offsets[i]:offsets[i + 1]]``."""
    import pyarrow as pa

    return pl.Series(name, pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values)))


def flat_lists(column: pl.Series) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Inverse of :func:`list_column`: the concatenated values of a list column, and the N + 1 offsets of its rows."""
    if column.null_count():
        raise DataError(f"column {column.name!r} has no list (null) in {column.null_count()} rows")
    found = column.rechunk().to_arrow()
    offsets = found.offsets.to_numpy()
    return found.values.to_numpy(zero_copy_only=False)[offsets[0] : offsets[-1]], offsets - offsets[0]


_Batch = tuple[list[str], list[str]]  # texts, names
_Result = tuple[int, NDArray[np.int32], NDArray[np.int64], list[str]]  # process, codes, lengths, new tokens


def _batches(texts: Sequence[str], names: Sequence[str]) -> Iterator[_Batch]:
    start = size = 0
    for number, text in enumerate(texts):
        size += len(text) + 1
        if size >= BATCH or number + 1 == len(texts):
            yield list(texts[start : number + 1]), list(names[start : number + 1])
            start, size = number + 1, 0


def _encode_batch(tokenizer: "CachedTokenizer", batch: _Batch) -> _Result:
    """Tokenize a batch: codes in the numbering of this tokenizer, and the tokens that are new in its lexicon."""
    coded = [np.array(_encode(tokenizer, text, name), np.int32) for text, name in zip(*batch, strict=True)]
    lengths = np.array([len(codes) for codes in coded], np.int64)
    return os.getpid(), np.concatenate(coded), lengths, tokenizer.new_tokens()


def _encode(tokenizer: "CachedTokenizer", text: str, name: str) -> list[int]:
    try:
        return tokenizer.encode(text)
    except (ValueError, TypeError, MemoryError) as error:
        raise DataError(f"document {name!r} cannot be tokenized: {error}") from error


def _encode_here(batches: Iterator[_Batch], options: TokenOptions) -> Generator[_Result, None, None]:
    from embedline.pipelines.text.spacy_cache import CachedTokenizer

    tokenizer = CachedTokenizer(options.rules)
    return (_encode_batch(tokenizer, batch) for batch in batches)


def _encode_in_pool(batches: Iterator[_Batch], options: TokenOptions) -> Generator[_Result, None, None]:
    """Yield results in the order of the batches; batches are submitted as results are consumed.

    Processes are spawned on every system: a forked process may hang if Polars or PyTorch have threads.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(options.processes, context, initializer=_start_process, initargs=(options.rules,))
    waiting: deque[Future[_Result]] = deque()
    try:
        for batch in batches:
            waiting.append(pool.submit(_encode_in_process, batch))
            if len(waiting) >= WAITING * options.processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a process that tokenizes ended early, perhaps for lack of memory: try fewer workers. A script that starts "
            'processes needs `if __name__ == "__main__":` around its code'
        ) from error
    finally:
        # Also after an error, after Ctrl-C and if the caller stops early: running batches end, no new ones start.
        pool.shutdown(wait=True, cancel_futures=True)


_process_tokenizer: "CachedTokenizer | None" = None


def _start_process(rules: RuleName) -> None:
    """Set up a process of the pool: its parent handles Ctrl-C, and the process ends when its parent ends."""
    import signal
    import sys

    from embedline.pipelines.text.spacy_cache import CachedTokenizer

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # spaCy imports PyTorch if it is installed: two seconds and 200 MB that a tokenizer does not need.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    global _process_tokenizer  # noqa: PLW0603  one tokenizer in a process, for all its batches
    _process_tokenizer = CachedTokenizer(rules)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _encode_in_process(batch: _Batch) -> _Result:
    assert _process_tokenizer is not None
    return _encode_batch(_process_tokenizer, batch)


def _merge(
    batch_codes: list[tuple[int, NDArray[np.int32]]], found: dict[int, list[str]]
) -> tuple[NDArray[np.int32], list[str]]:
    """Renumber the codes of all batches by frequency, then by string; return the codes and the lexicon."""
    union: dict[str, int] = {}
    shared = {
        process: np.fromiter((union.setdefault(token, len(union)) for token in tokens), np.int32, len(tokens))
        for process, tokens in found.items()
    }
    codes = np.empty(sum(len(each) for _, each in batch_codes), np.int32)
    start = 0
    while batch_codes:
        process, each = batch_codes.pop(0)
        codes[start : start + len(each)] = shared[process][each]
        start += len(each)
    counts = np.bincount(codes, minlength=len(union))
    tokens = list(union)
    # A special token may have a code although no document contains it: it is left out of the lexicon.
    order = sorted(np.flatnonzero(counts).tolist(), key=lambda code: (-counts[code], tokens[code]))
    rank = np.zeros(len(union), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    for start in range(0, len(codes), 10_000_000):  # in chunks: no second copy of all codes
        codes[start : start + 10_000_000] = rank[codes[start : start + 10_000_000]]
    return codes, [tokens[code] for code in order]


@lru_cache(maxsize=2)
def _tokenizer(rules: RuleName) -> "CachedTokenizer":
    from embedline.pipelines.text.spacy_cache import CachedTokenizer

    return CachedTokenizer(rules)
