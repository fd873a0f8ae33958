"""The server over real sockets: what it answers, what it refuses, and how."""

import http.client
import io
import json
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from mixed_requests import JSON, Request, bad_requests
from small_server import CSV, MOST_BYTES, MOST_ROWS, PARQUET, RECORDS, post, send, serving
from test_ratings_service import make_bundle

from embedline.serving.app import RequestHandler, make_app
from embedline.serving.bodies import write_predictions
from embedline.serving.contract import Limits
from embedline.serving.ratings import pack_ratings
from embedline.serving.service import Service
from embedline.serving.texts import TextService, pack_texts
from test_commands import make_bundles


@pytest.fixture(scope="module")
def packed() -> Service:
    return pack_ratings(make_bundle(False))


@pytest.fixture(scope="module")
def port(packed: Service) -> Iterator[int]:
    app = make_app(RequestHandler(packed, {"body": MOST_BYTES, "rows": MOST_ROWS, "seconds": 1.0}))
    with serving(app) as port:
        yield port


@pytest.fixture(scope="module")
def expected(packed: Service) -> list[float]:
    """The prediction for each of RECORDS."""
    return packed.open().predict(pd.DataFrame(RECORDS))["predicted"].tolist()


class TestAnswers:
    @pytest.mark.parametrize(
        "layout", ["dataframe_records", "dataframe_split", "inputs", "instances", "csv", "parquet"]
    )
    def test_every_layout_has_the_same_answer(self, port: int, expected: list[float], layout: str) -> None:
        frame, file = pd.DataFrame(RECORDS), io.BytesIO()
        frame.to_parquet(file)
        content: Any = {
            "dataframe_records": {"dataframe_records": RECORDS},
            "dataframe_split": {"dataframe_split": frame.to_dict(orient="split")},
            "inputs": {"inputs": frame.to_dict(orient="list")},
            "instances": {"instances": RECORDS},
            "csv": frame.to_csv(index=False).encode(),
            "parquet": file.getvalue(),
        }[layout]
        status, answer = post(port, content, {"csv": CSV, "parquet": PARQUET}.get(layout, JSON))
        assert status == 200
        assert [row["predicted"] for row in answer["predictions"]] == expected  # to the last bit

    def test_texts_may_be_sent_as_they_are(self) -> None:
        service, texts = pack_texts(make_bundles(3)["model"]), ["the film was dull", "", "wonderful"]
        wanted = service.open().predict(pd.DataFrame({"text": texts})).to_dict(orient="records")
        with serving(make_app(RequestHandler(service, {}))) as port:
            assert post(port, {"inputs": texts})[1] == {"predictions": wanted}
            answer = post(port, b'text\nthe film was dull\n""\nwonderful\n', CSV)[1]
            assert answer == {"predictions": wanted}
            assert post(port, b"text\nNA\nnull\n", CSV) == post(port, {"inputs": ["NA", "null"]})
            assert post(port, {"inputs": [1]})[1]["message"] == "the request: column 'text', row 1: 1 is not text"

    @pytest.mark.parametrize("path", ["/ping", "/health", "/version"])
    def test_the_other_paths_are_mlflows(self, port: int, path: str) -> None:
        import mlflow

        status, answer = send(port, Request("", 200, method="GET", path=path))
        assert status == 200 and (path != "/version" or answer == mlflow.__version__.encode())

    def test_a_missing_number_is_null(self) -> None:
        found = write_predictions(pd.DataFrame({"Id": [1, 2], "p": [np.nan, 0.1], "name": ["ä", None]}))
        assert json.loads(found) == {
            "predictions": [{"Id": 1, "p": None, "name": "ä"}, {"Id": 2, "p": 0.1, "name": None}]
        }
        assert b"NaN" not in found


class TestRefusals:
    @pytest.mark.parametrize(
        "request_", bad_requests(RECORDS[0], "album", "listener", MOST_BYTES), ids=lambda one: one.kind
    )
    def test_a_bad_request_is_told_so_in_one_line(self, port: int, expected: list[float], request_: Request) -> None:
        status, answer = send(port, request_)
        assert status == request_.expected
        if status in (400, 408, 413, 415) and not request_.raw:
            assert answer.keys() == {"error_code", "message"}
            assert 10 < len(answer["message"]) <= 500 and "\n" not in answer["message"]
            assert "Traceback" not in answer["message"] and "File" not in answer["message"]
        assert post(port, {"dataframe_records": RECORDS[:1]})[1] == {"predictions": [{"predicted": expected[0]}]}

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"instances": [{"listener": 1, "albun": 2}]}, "the model has no column 'albun': did you mean 'album'?"),
            (
                {"instances": [{"Listener": 1, "album": 2}]},
                "the model has no column 'Listener': did you mean 'listener'?",
            ),
            (
                {"instances": [{"listener": 1, "album": 2, "x": 3}]},
                "the model has no column 'x': it has 'listener', 'album'",
            ),
            ({"instances": [{"listener": 1}]}, "the request has no column 'album'; it has 'listener'"),
            (
                {"instances": [{"listener": 1, "album": 2}, {"listener": 1, "album": "b"}]},
                "the request: column 'album', row 2: 'b' is not a whole number",
            ),
            (
                {"dataframe_split": {"columns": ["album", "album"], "data": [[1, 2]]}},
                "column 'album' is there more than once",
            ),
            (
                {"instances": [{"listener": [1], "album": 2}]},
                "column 'listener' holds a list in row 1: a cell is one value",
            ),
            (b'{"instances": [', "the body is no JSON: Expecting value: line 1 column 16 (char 15)"),
        ],
    )
    def test_the_message_names_column_and_row(self, port: int, content: Any, message: str) -> None:
        assert post(port, content) == (400, {"error_code": "BAD_REQUEST", "message": message})

    def test_a_long_value_is_not_sent_back(self, port: int) -> None:
        status, answer = post(port, {"instances": [{"listener": "x" * 90_000, "album": 1}]})
        assert status == 400 and "column 'listener', row 1" in answer["message"] and len(answer["message"]) < 500

    @pytest.mark.parametrize("layout", ["records", "csv", "parquet"])
    def test_too_many_rows_are_refused(self, port: int, layout: str) -> None:
        for count, status in ((MOST_ROWS, 200), (MOST_ROWS + 1, 413)):
            frame, file = pd.DataFrame(RECORDS[:1] * count), io.BytesIO()
            frame.to_parquet(file)
            body = {
                "records": json.dumps({"instances": RECORDS[:1] * count}).encode(),
                "csv": frame.to_csv(index=False).encode(),
                "parquet": file.getvalue(),
            }[layout]
            found, answer = post(port, body, {"csv": CSV, "parquet": PARQUET}.get(layout, JSON))
            assert found == status
        assert answer["message"] == "a request may have 60 rows; this one has more"

    def test_a_small_parquet_file_of_much_data_is_refused(self, port: int) -> None:
        file = io.BytesIO()
        pl.DataFrame({"listener": ["x" * 30_000_000], "album": [1]}).write_parquet(file, compression="zstd")
        assert len(file.getvalue()) < MOST_BYTES
        status, answer = post(port, file.getvalue(), PARQUET)
        assert status == 413 and "100,000 bytes" in answer["message"]

    def test_a_body_without_a_length_is_bounded_too(self, port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("POST", "/invocations", (b" " * 1000 for _ in range(200)), JSON, encode_chunked=True)
        answer = connection.getresponse()
        assert answer.status == 413 and b"100,000 bytes" in answer.read()

    def test_a_client_that_asks_first_need_not_send(self, port: int) -> None:
        head = "POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(f"{head}Content-Length: {MOST_BYTES + 1}\r\n\r\n".encode())
            assert client.recv(1000).startswith(b"HTTP/1.1 413 ")

    def test_a_body_that_does_not_come_is_not_waited_for(self, port: int) -> None:
        head = b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(head + b'{"instances"')
            assert client.recv(1000).startswith(b"HTTP/1.1 408 ")

    def test_unknown_columns_may_be_left_out(self, packed: Service, expected: list[float]) -> None:
        with serving(make_app(RequestHandler(packed, {}, strict=False))) as port:
            status, answer = post(port, {"instances": [{**RECORDS[3], "note": "hello"}]})
        assert (status, answer) == (200, {"predictions": [{"predicted": expected[3]}]})

    def test_a_fault_of_ours_is_no_fault_of_the_clients(
        self, packed: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        handler = RequestHandler(packed, {})

        def fail(_: Any) -> None:
            raise KeyError("secret")

        monkeypatch.setattr(handler._scorer, "predict", fail)
        with serving(make_app(handler)) as port:
            status, answer = post(port, {"instances": RECORDS[:1]})
        assert status == 500 and "secret" not in str(answer)
        assert "KeyError: 'secret'" in caplog.text


def test_limits_are_those_of_the_kind_unless_given(packed: Service) -> None:
    assert RequestHandler(packed, {"rows": 7}).limits == Limits(rows=7)
    texts = RequestHandler(pack_texts(make_bundles(3)["model"]), {"body": 10})
    assert texts.limits == TextService.limits.model_copy(update={"body": 10}) and texts.limits.rows < Limits().rows
