"""What would grow to gigabytes is refused before it does, at once and by a name."""

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hostile_bodies import BOMBS
from small_services import CSV, JSON, PAIRS, PARQUET, bodies, parquet, ratings_service, texts_service
from small_table import CLASSES, Trained

from embedline.serving import parquet as parquet_module
from embedline.serving.app import RequestHandler
from embedline.serving.contract import RefusedError

GOOD = {"shop": "shop 1", "colour": None, "size": 36, "member": True, "heat": 0.5, "year": 1999}  # of the table
MOST_MB, MOST_SECONDS = 100, 5.0  # the time is that of the processor, on machines that do other things as well


@pytest.fixture(scope="module")
def handler() -> RequestHandler:
    found = RequestHandler(ratings_service(), {})
    for content_type, make in bodies(PAIRS[:1]):
        found.answer(make(), content_type)
    return found


@pytest.fixture(scope="module")
def lenient() -> RequestHandler:
    return RequestHandler(ratings_service(), {}, strict=False)


@pytest.fixture(scope="module")
def texts() -> RequestHandler:
    return RequestHandler(texts_service(), {})


@pytest.fixture(scope="module")
def table() -> RequestHandler:
    return RequestHandler(Trained(CLASSES).packed, {})


def megabytes(key: str) -> float:
    """Memory of this process: VmRSS now, VmHWM at most since it was reset."""
    found = re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


@pytest.fixture
def peak() -> Iterator[Any]:
    """Function that gives the MB that this process has taken beyond what it had."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("the system does not reset the peak of a process's memory")
    before = megabytes("VmRSS")
    yield lambda: megabytes("VmHWM") - before


def refused(handler: RequestHandler, body: bytes, content_type: str) -> tuple[int, str]:
    """Status and message."""
    with pytest.raises(RefusedError) as caught:
        handler.answer(body, content_type)
    assert 10 < len(str(caught.value)) and "\n" not in str(caught.value)
    return caught.value.status, str(caught.value)


@pytest.mark.parametrize("name", BOMBS)
def test_a_body_that_would_grow_is_refused(handler, lenient, name, request) -> None:
    content_type, status, named, make = BOMBS[name]
    body = make()
    taken = request.getfixturevalue("peak")
    start = time.process_time()
    found, message = refused(handler, body, content_type)
    assert time.process_time() - start < MOST_SECONDS
    assert taken() < MOST_MB
    assert found == status and named in message, message
    if status == 413:  # where unknown columns are left out, too
        start = time.process_time()
        found, _ = refused(lenient, body, content_type)
        assert found in (400, 413) and time.process_time() - start < MOST_SECONDS


FAULTS: list[tuple[str, bytes, str]] = [
    (JSON, b'{"instances": [{"listener": 1, "listener": 2, "album": 1}]}', "'listener'"),
    (JSON, b'{"instances": [], "instances": [{"listener": 1, "album": 1}]}', "'instances'"),
    (JSON, b'{"instances": [{"listener": 1, "album": Infinity}]}', "'album', row 1"),
    (JSON, b'{"instances": [{"listener": 1, "album": 1}, {"listener": -1e999, "album": 1}]}', "'listener', row 2"),
    (JSON, b'{"instances": [{"listener": 1, "album": NaN}]}', "'album', row 1"),
    (JSON, b'{"inputs": {"listener": [1, 2], "album": [1, [2]]}}', "'album' holds a list in row 2"),
    (JSON, b'{"dataframe_split": {"columns": ["listener", "album"], "data": [[1, 2], [1]]}}', "row 2"),
    (JSON, b'{"dataframe_split": {"columns": ["listener", "album"], "data": [[1, 2], [1, {}]]}}', "'album'"),
    (JSON, b'{"inputs": [{"listener": 1, "album": "\xed\xa0\x80"}]}', "utf-8"),
    (JSON, b'{"inputs": [{"listener": 1, "album": "\\ud800"}]}', "surrogate"),
    (JSON, b"\xef\xbb\xbf{}", "BOM"),
    (CSV, b"", "first line"),
    (CSV, b"\n\n", "first line"),
    (CSV, b"listener,album\n", "no rows"),
    (CSV, b"listener,album,album\n1,2,3\n", "'album'"),
    (CSV, b"listener,album\n1,10\n1\n", "row 2"),
    (CSV, b"listener,album\n1,10\n\n1,10,11\n", "row 2"),
    (CSV, b"listener,album\n1,\xff\n", "utf-8"),
    (CSV, b'listener,album\n1,"10\n', "no CSV"),
    (CSV, b"listener;album\n1;10\n", "'listener;album'"),
    (CSV, b"listener,album\n1,10\n1,x\n", "'album', row 2"),
    *(
        (PARQUET, parquet({"listener": pa.array([1]), "album": album}), f"'album'.*{named}")
        for album, named in [
            (pa.array([[1, 2]]), "list"),
            (pa.array([{"a": 1}]), "struct"),
            (pa.array([b"\x00"]), "binary"),
            (pa.array([3], pa.time64("us")), "time"),
            *((pa.array([value]), "row 1") for value in ("\x00x", 1.5, float("inf"), True)),
            (pa.array([None], pa.int64()), "row 1"),
        ]
    ),
]


@pytest.mark.parametrize(("content_type", "body", "named"), FAULTS)
def test_faults_are_named(handler: RequestHandler, content_type: str, body: bytes, named: str) -> None:
    status, message = refused(handler, body, content_type)
    assert status == 400 and re.search(named, message), message


def json_of(inputs: Any) -> bytes:
    return json.dumps({"inputs": inputs}).encode()


class TestJson:
    def test_brackets_and_commas_in_texts_do_not_count(self, texts: RequestHandler) -> None:
        content = ['[{"a": [1, 2]}],' * 900, 'a \\" , [', "\\", ",,,,[[[[" * 100]
        found = json.loads(texts.answer(json_of(content), JSON))
        assert len(found["predictions"]) == 4
        body = b'text\n"' + b"," * 3_000 + b'\nthe film"\n' + b"dull\n"
        assert len(json.loads(texts.answer(body, CSV))["predictions"]) == 2

    def test_a_long_text_is_refused_by_its_row(self, texts: RequestHandler) -> None:
        sent = ["the film", "a-" * 100_001]
        for content_type, make in [*bodies([{"text": text} for text in sent]), (JSON, lambda: json_of(sent))]:
            status, message = refused(texts, make(), content_type)
            assert status == 413 and "'text', row 2" in message and "200,000" in message

    def test_whole_numbers_keep_their_digits_beside_missing_ones(self, table: RequestHandler) -> None:
        rows = [{**GOOD, "row": number} for number in (2**60 + 1, None, 10**30)]
        found = json.loads(table.answer(json_of(rows), JSON))["predictions"]
        assert [one["row"] for one in found] == [2**60 + 1, None, 10**30]

    def test_a_number_that_overflows_the_network_is_named(self, table: RequestHandler) -> None:
        for value in (1e300, -1e39, 3.4e38):  # the last one is a float32, and no more once it is standardised
            status, message = refused(table, json_of([GOOD, {**GOOD, "heat": value}]), JSON)
            assert status == 400 and message.startswith("the request: column 'heat'")
            assert "row 2" in message and f"{value:g}" in message and "too large" in message


class TestNames:
    def test_all_that_is_missing_and_unknown_is_named(self, table: RequestHandler) -> None:
        row = {"shap": "shop 1", "colour": None, "member": True, "heat": 0.5, "note": 1}
        for content_type, make in bodies([row, row]):
            status, message = refused(table, make(), content_type)
            assert status == 400
            for name in ("'shap'", "'note'", "'shop'", "'size'", "'year'"):
                assert name in message, message

    def test_names_come_before_values(self, table: RequestHandler) -> None:
        for content_type, make in bodies([{"member": "perhaps", "heat": "hot"}])[-3:]:
            message = refused(table, make(), content_type)[1]
            assert "'shop'" in message and "perhaps" not in message

    def test_ignored_columns_are_never_read(self, lenient: RequestHandler) -> None:
        wanted = lenient.answer(b'{"instances": [{"listener": 1, "album": 10}]}', JSON)
        csv = f"{','.join(f'c{k}' for k in range(2_000))},listener,album\n{',' * 2_000}1,10\n".encode()
        assert lenient.answer(csv, CSV) == wanted
        for name, ignored in (("x", [{"a": b"\xff"}]), ("x", "a" * 50_000_000), ("listener.x", "a")):
            columns = {"listener": pa.array([1]), "album": pa.array([10]), name: pa.array([ignored])}
            assert lenient.answer(parquet(columns), PARQUET) == wanted


class TestCsv:
    def test_writers_differ(self, handler: RequestHandler) -> None:
        wanted = handler.answer(b'{"instances": [{"listener": 1, "album": 10}, {"listener": 2, "album": 11}]}', JSON)
        for body in (
            b"listener,album\n1,10\n2,11\n",
            b"listener,album\r\n1,10\r\n2,11",
            b"\xef\xbb\xbfalbum,listener\r10,1\r11,2\r",
            b'"listener","album"\n"1","10"\n\n"2"," 11 "\n\n',
            b"listener,album\n1.0,1e1\n+2,11.\n",
        ):
            assert handler.answer(body, CSV) == wanted, body


class TestParquet:
    def test_numbers_of_any_type_are_taken(self, handler: RequestHandler) -> None:
        wanted = handler.answer(b'{"instances": [{"listener": 1, "album": 10}]}', JSON)
        types = [pa.int8(), pa.uint64(), pa.float32(), pa.float16(), pa.decimal128(30, 0), pa.decimal128(30, 2)]
        for dtype in types:
            album = pa.array([10.0 if dtype == pa.float16() else 10]).cast(dtype)
            assert handler.answer(parquet({"listener": pa.array([1]), "album": album}), PARQUET) == wanted, dtype
        encoded = pa.array([10]).dictionary_encode()
        body = parquet({"listener": pa.array([1]), "album": encoded}, store_schema=True)
        assert handler.answer(body, PARQUET) == wanted

    def test_texts_that_are_no_utf8_are_named(self, texts: RequestHandler) -> None:
        buffers = [None, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff\xfe")]
        status, message = refused(texts, parquet({"text": pa.Array.from_buffers(pa.string(), 1, buffers)}), PARQUET)
        assert status == 400 and "'text'" in message

    def test_broken_bytes_are_no_fault_of_ours(self, handler: RequestHandler) -> None:
        """A bit of every ninth byte of a file is turned: refused or answered. PyArrow aborts at some of them."""
        body = parquet({"listener": pa.array([1, 2]), "album": pa.array([10, 11])})
        statuses = set()
        for place in range(0, len(body), 9):
            try:
                handler.answer(body[:place] + bytes([body[place] ^ (1 << place % 8)]) + body[place + 1 :], PARQUET)
            except RefusedError as error:
                statuses.add(error.status)
        assert statuses <= {400, 413}

    def test_a_footer_that_says_more_rows_than_there_are_is_refused(self, handler: RequestHandler) -> None:
        """The footer of a file of 50,000 rows in front of the pages of one row."""
        small, large = (
            parquet({"listener": column, "album": column}, compression="none")
            for column in (pa.array([1]), pa.nulls(50_000, pa.int64()))
        )
        length, footer = (int.from_bytes(body[-8:-4], "little") for body in (large, small))
        status, _ = refused(handler, small[: -8 - footer] + large[-8 - length :], PARQUET)
        assert status == 400

    def test_a_reader_that_cannot_begin_is_a_fault_of_ours(self, handler: RequestHandler, monkeypatch: Any) -> None:
        monkeypatch.setattr(parquet_module, "_answer", sys.exit)  # with a status that is no signal
        body = parquet({"listener": pa.array([1]), "album": pa.array([10])})
        with pytest.raises(RuntimeError, match="reads Parquet files"):
            handler.answer(body, PARQUET)

    def test_memory_goes_back(self, handler: RequestHandler, peak: Any) -> None:
        body = parquet({name: pa.array(np.arange(100_000)) for name in ("listener", "album")})
        before = megabytes("VmRSS")
        for _ in range(5):
            handler.answer(body, PARQUET)
        assert megabytes("VmRSS") - before < MOST_MB and peak() < 3 * MOST_MB
