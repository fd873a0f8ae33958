"""The server over real sockets: what it answers, what it refuses, and how."""

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from mixed_requests import Request, bad_requests
from small_server import MOST_BYTES, MOST_ROWS, post, send, serving
from small_services import CSV, JSON, PAIRS, PARQUET, bodies, pair_predictions, parquet, ratings_service, texts_service

from embedline.serving.app import RequestHandler, make_app
from embedline.serving.bodies import write_predictions
from embedline.serving.contract import Limits
from embedline.serving.texts import TextService


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    limits = {"body": MOST_BYTES, "rows": MOST_ROWS, "seconds": 1.0}
    with serving(make_app(RequestHandler(ratings_service(), limits))) as port:
        yield port


@pytest.fixture(scope="module")
def expected() -> list[float]:
    return pair_predictions()


class TestAnswers:
    def test_every_layout_has_the_same_answer(self, port: int, expected: list[float]) -> None:
        of_pandas = json.dumps(
            {"dataframe_split": pd.DataFrame(PAIRS).to_dict(orient="split")}
        ).encode()  # an index, too
        for content_type, make in [*bodies(PAIRS), (JSON, lambda: of_pandas)]:
            status, answer = post(port, make(), content_type)
            assert status == 200
            assert [row["predicted"] for row in answer["predictions"]] == expected  # to the last bit

    def test_texts_may_be_sent_as_they_are(self) -> None:
        service, texts = texts_service(), ["the film was dull", "", "wonderful"]
        wanted = {"predictions": service.open().predict(pd.DataFrame({"text": texts})).to_dict(orient="records")}
        with serving(make_app(RequestHandler(service, {}))) as port:
            assert post(port, {"inputs": texts})[1] == wanted
            assert post(port, b'text\nthe film was dull\n""\nwonderful\n', CSV)[1] == wanted
            assert post(port, b"text\nNA\nnull\n", CSV) == post(port, {"inputs": ["NA", "null"]})
            assert post(port, {"inputs": [1]})[1]["message"] == "the request: column 'text', row 1: 1 is not text"

    @pytest.mark.parametrize("path", ["/ping", "/health", "/version"])
    def test_the_other_paths_are_mlflows(self, port: int, path: str) -> None:
        import mlflow

        status, answer = send(port, Request("", 200, method="GET", path=path))
        assert status == 200 and (path != "/version" or answer == mlflow.__version__.encode())

    def test_a_missing_number_is_null(self) -> None:
        found = write_predictions(pd.DataFrame({"Id": [1, 2], "p": [np.nan, 0.1], "name": ["ä", None]}))
        rows = [{"Id": 1, "p": None, "name": "ä"}, {"Id": 2, "p": 0.1, "name": None}]
        assert json.loads(found) == {"predictions": rows}
        assert b"NaN" not in found


BAD = bad_requests(PAIRS[0], "album", "listener", MOST_BYTES)


class TestRefusals:
    @pytest.mark.parametrize("request_", BAD, ids=lambda one: one.kind)
    def test_a_bad_request_is_told_so_in_one_line(self, port: int, expected: list[float], request_: Request) -> None:
        status, answer = send(port, request_)
        assert status == request_.expected
        if status in (400, 408, 413, 415) and not request_.raw:
            assert answer.keys() == {"error_code", "message"}
            assert 10 < len(answer["message"]) <= 500 and "\n" not in answer["message"]
            assert "Traceback" not in answer["message"] and "File" not in answer["message"]
        assert post(port, {"dataframe_records": PAIRS[:1]})[1] == {"predictions": [{"predicted": expected[0]}]}

    @pytest.mark.parametrize(
        ("content", "named"),
        [
            ({"instances": [{"listener": 1, "albun": 2}]}, ["'albun'", "did you mean 'album'"]),
            ({"instances": [{"Listener": 1, "album": 2}]}, ["'Listener'", "did you mean 'listener'"]),
            ({"instances": [{"listener": 1, "album": 2, "x": 3}]}, ["'x'", "'listener', 'album'"]),
            ({"instances": [{"listener": 1}]}, ["no column 'album'", "'listener'"]),
            ({"instances": [PAIRS[0], {"listener": 1, "album": "b"}]}, ["'album', row 2", "'b'", "whole number"]),
            ({"dataframe_split": {"columns": ["album", "album"], "data": [[1, 2]]}}, ["'album'", "more than once"]),
            ({"instances": [{"listener": [1], "album": 2}]}, ["'listener'", "a list in row 1"]),
            (b'{"instances": [', ["JSON", "line 1 column 16 (char 15)"]),
        ],
    )
    def test_the_message_names_column_and_row(self, port: int, content: Any, named: list[str]) -> None:
        status, answer = post(port, content)
        assert (status, answer["error_code"]) == (400, "BAD_REQUEST") and answer.keys() == {"error_code", "message"}
        assert [each for each in named if each not in answer["message"]] == []

    def test_bodies_are_bounded_whatever_they_are(self, port: int) -> None:
        status, answer = post(port, {"instances": [{"listener": "x" * 90_000, "album": 1}]})  # is not sent back
        assert status == 400 and "column 'listener', row 1" in answer["message"] and len(answer["message"]) < 500
        packed = parquet({"listener": pa.array(["x" * 30_000_000]), "album": pa.array([1])})
        assert len(packed) < MOST_BYTES
        status, answer = post(port, packed, PARQUET)
        assert status == 413 and "100,000 bytes" in answer["message"]
        connection, pieces = http.client.HTTPConnection("127.0.0.1", port), (b" " * 1000 for _ in range(200))
        connection.request("POST", "/invocations", pieces, {"Content-Type": JSON}, encode_chunked=True)  # no length
        response = connection.getresponse()
        assert response.status == 413 and b"100,000 bytes" in response.read()

    def test_too_many_rows_are_refused(self, port: int) -> None:
        for count, status in ((MOST_ROWS, 200), (MOST_ROWS + 1, 413)):
            for content_type, make in bodies(PAIRS[:1] * count):
                found, answer = post(port, make(), content_type)
                assert found == status
                assert status == 200 or ("60 rows" in answer["message"] and "more" in answer["message"])

    @pytest.mark.parametrize(
        ("headers", "sent", "status"),
        [
            (f"Expect: 100-continue\r\nContent-Length: {MOST_BYTES + 1}", b"", 413),  # need not be sent
            ("Content-Length: 50", b'{"instances"', 408),  # is not waited for
        ],
    )
    def test_a_body_that_has_not_come(self, port: int, headers: str, sent: bytes, status: int) -> None:
        head = f"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{headers}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(head.encode() + sent)
            assert client.recv(1000).startswith(f"HTTP/1.1 {status} ".encode())

    def test_unknown_columns_may_be_left_out(self, expected: list[float]) -> None:
        with serving(make_app(RequestHandler(ratings_service(), {}, strict=False))) as port:
            status, answer = post(port, {"instances": [{**PAIRS[3], "note": "hello"}]})
        assert (status, answer) == (200, {"predictions": [{"predicted": expected[3]}]})

    def test_a_fault_of_ours_is_no_fault_of_the_clients(self, monkeypatch: Any, caplog: Any) -> None:
        handler = RequestHandler(ratings_service(), {})
        monkeypatch.setattr(handler._scorer, "predict", lambda _: {}["secret"])
        with serving(make_app(handler)) as port:
            status, answer = post(port, {"instances": PAIRS[:1]})
        assert status == 500 and "secret" not in str(answer)
        assert "KeyError: 'secret'" in caplog.text


def test_limits_are_those_of_the_kind_unless_given() -> None:
    assert RequestHandler(ratings_service(), {"rows": 7}).limits == Limits(rows=7)
    texts = RequestHandler(texts_service(), {"body": 10})
    assert texts.limits == TextService.limits.model_copy(update={"body": 10}) and texts.limits.rows < Limits().rows
