"""Documents to tokens: rules, then spaCy, in parallel processes; codes instead of strings from the start.

A token's code is its row in the lexicon, which lists all distinct tokens, most frequent first and ties by string; so
codes depend on the corpus alone, not on the number of processes or on who was faster. Token streams are flat arrays
with offsets and become list columns without a Python object per token.
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
    from embedline.pipelines.text.spacy_cache import TextEncoder

IN_PROCESS = 4_000_000  # characters that one process takes about as long for as a pool takes to start
BATCH = 400_000  # characters sent to a process at a time
_MOST_PROCESSES = 61  # what Windows can wait for
WAITING = 3  # batches per process that are under way
MET_TOKENS = (
    1_000_000  # by the encoder of a few texts, before it starts anew: a server must not grow with what it reads
)

_encoding = threading.Lock()  # an encoder serves one thread at a time

Flat = tuple[NDArray[np.int32], NDArray[np.int64]]


class TokenOptions(BaseModel):
    """How texts become tokens; ``workers`` is the number of processes, all cores when None."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: RuleName = "ulmfit"
    workers: int | None = Field(default=None, ge=1)

    @property
    def processes(self) -> int:
        """Number of processes: as many as this one may use cores, unless it is given."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(self.workers or cores, _MOST_PROCESSES)


def tokenize_documents(documents: pl.DataFrame, options: TokenOptions) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Tokens of the documents, and the lexicon that their codes point into.

    Args:
        documents: ``document_id``, ``text``, ``label`` and ``split``.

    Returns:
        ``document_id, label, part, tokens: List(Int32)`` in the same order, and the lexicon ``token: String``.

    Raises:
        DataError: if a document has no text (null), or spaCy refuses one; it is named.
    """
    empty = documents.filter(pl.col("text").is_null())
    if len(empty):
        raise DataError(f"document {empty['document_id'][0]!r} has no text (null); an empty text is an empty string")
    names = documents["document_id"].cast(pl.String).to_list()
    (codes, offsets), lexicon = tokenize(documents["text"].to_list(), options, names)
    tokens = documents.select("document_id", "label", "split").with_columns(list_column("tokens", codes, offsets))
    return tokens, pl.DataFrame({"token": lexicon}, schema={"token": pl.String})


def tokenize(texts: Sequence[str], options: TokenOptions, names: Sequence[str] | None = None) -> tuple[Flat, list[str]]:
    """Codes of the tokens of all texts, one text behind the other, and the lexicon.

    Args:
        names: what the texts are called in messages; their numbers if left out.

    Returns:
        ``(codes int32 [T], offsets int64 [N + 1])``: text ``i`` is ``codes[offsets[i]:offsets[i + 1]]``; and the list
        of all distinct tokens, most frequent first, ties by string.
    """
    from tqdm.auto import tqdm

    names = [str(number) for number in range(len(texts))] if names is None else names
    batches = _batches(texts, names)
    # A daemonic process may have no children.
    alone = multiprocessing.current_process().daemon or options.processes == 1
    alone = alone or sum(map(len, texts)) <= IN_PROCESS
    results = _encode_here(batches, options) if alone else _encode_in_pool(batches, options)
    parts: list[tuple[int, NDArray[np.int32]]] = []
    lengths: list[NDArray[np.int64]] = []
    found: dict[int, list[str]] = {}  # the tokens that each process has met, in the order of its codes
    with tqdm(total=len(texts), desc="tokens", unit="document", disable=None) as bar, closing(results):
        for process, codes, counts, new in results:
            found.setdefault(process, []).extend(new)
            parts.append((process, codes))
            lengths.append(counts)
            bar.update(len(counts))
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(np.concatenate(lengths) if lengths else offsets[:0], out=offsets[1:])
    codes, lexicon = _merge(parts, found)
    return (codes, offsets), lexicon


def tokenize_texts(texts: Sequence[str], options: TokenOptions) -> list[list[str]]:
    """Tokens of a few texts, as strings, in this process: for prediction. The first call loads spaCy."""
    found = []
    with _encoding:
        encoder = _encoder(options.rules)
        for number, text in enumerate(texts):
            codes = _encode(encoder, text, str(number))
            found.append([encoder.lexicon[code] for code in codes])
        if len(encoder.lexicon) > MET_TOKENS:
            _encoder.cache_clear()
    return found


def list_column(name: str, values: NDArray[np.generic], offsets: NDArray[np.int64]) -> pl.Series:
    """A list column around the arrays: row ``i`` is ``values[offsets[i]:offsets[i + 1]]``."""
    import pyarrow as pa

    return pl.Series(name, pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values)))


def flat_lists(column: pl.Series) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The other way: all values of a list column one behind the other, and the N + 1 offsets of its rows."""
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


def _encode_batch(encoder: "TextEncoder", batch: _Batch) -> _Result:
    """Codes of a batch in the encoder's own numbering, and the tokens that it had not met before."""
    coded = [np.array(_encode(encoder, text, name), np.int32) for text, name in zip(*batch, strict=True)]
    lengths = np.array([len(codes) for codes in coded], np.int64)
    return os.getpid(), np.concatenate(coded), lengths, encoder.new_tokens()


def _encode(encoder: "TextEncoder", text: str, name: str) -> list[int]:
    try:
        return encoder.encode(text)
    except (ValueError, TypeError, MemoryError) as error:
        raise DataError(f"document {name!r} cannot be tokenized: {error}") from error


def _encode_here(batches: Iterator[_Batch], options: TokenOptions) -> Generator[_Result, None, None]:
    from embedline.pipelines.text.spacy_cache import TextEncoder

    encoder = TextEncoder(options.rules)
    return (_encode_batch(encoder, batch) for batch in batches)


def _encode_in_pool(batches: Iterator[_Batch], options: TokenOptions) -> Generator[_Result, None, None]:
    """Results in the order of the batches, which are sent out as they are needed.

    Processes are spawned on every system: a fork of a process in which Polars or PyTorch have threads may hang.
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
            "a process that tokenizes ended before its time, perhaps for want of memory: try fewer workers. A script "
            'that starts processes needs `if __name__ == "__main__":` around what it does'
        ) from error
    finally:
        # Also on an error, on Ctrl-C and when nobody asks for the rest: what runs ends, nothing new starts.
        pool.shutdown(wait=True, cancel_futures=True)


_process_encoder: "TextEncoder | None" = None


def _start_process(rules: RuleName) -> None:
    """Make a process of the pool ready: Ctrl-C is its parent's business, and it ends when its parent is gone."""
    import signal
    import sys

    from embedline.pipelines.text.spacy_cache import TextEncoder

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # spaCy imports PyTorch if it finds it: two seconds and 200 MB that no tokenizer has a use for.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    global _process_encoder  # noqa: PLW0603  one encoder in a process, for all its batches
    _process_encoder = TextEncoder(rules)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _encode_in_process(batch: _Batch) -> _Result:
    assert _process_encoder is not None
    return _encode_batch(_process_encoder, batch)


def _merge(
    parts: list[tuple[int, NDArray[np.int32]]], found: dict[int, list[str]]
) -> tuple[NDArray[np.int32], list[str]]:
    """The codes of all batches in one numbering: by frequency, then by string."""
    union: dict[str, int] = {}
    shared = {
        process: np.fromiter((union.setdefault(token, len(union)) for token in tokens), np.int32, len(tokens))
        for process, tokens in found.items()
    }
    codes = np.empty(sum(len(part) for _, part in parts), np.int32)
    start = 0
    while parts:
        process, part = parts.pop(0)
        codes[start : start + len(part)] = shared[process][part]
        start += len(part)
    counts = np.bincount(codes, minlength=len(union))
    tokens = list(union)
    # A special token that no document has may have been given a code: it is not in the lexicon.
    order = sorted(np.flatnonzero(counts).tolist(), key=lambda code: (-counts[code], tokens[code]))
    rank = np.zeros(len(union), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    for start in range(0, len(codes), 10_000_000):  # in pieces: no second copy of all codes
        codes[start : start + 10_000_000] = rank[codes[start : start + 10_000_000]]
    return codes, [tokens[code] for code in order]


@lru_cache(maxsize=2)
def _encoder(rules: RuleName) -> "TextEncoder":
    from embedline.pipelines.text.spacy_cache import TextEncoder

    return TextEncoder(rules)
