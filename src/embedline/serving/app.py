"""The HTTP application of a service: MLflow's scoring protocol, with bounds, and one line for who sent a bad request.

Score with mlflow 3.17: MLflow's own app answers a request without a Content-Type, a number of 5,000 digits or deeply
nested JSON with 500, takes bodies of any size and sends them back where they are no JSON, leaves out misspelt columns,
and calls whatever goes wrong inside of a model 400.
"""

import asyncio
import json
import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect

from embedline.errors import DataError, one_line
from embedline.serving.bodies import CSV, JSON, PARQUET, read_frame, write_predictions
from embedline.serving.contract import Limits, RefusedError, RequestContract
from embedline.serving.service import Scorer, Service

logger = logging.getLogger(__name__)

THREADS = 2  # predictions at a time in a process: a single row need not wait for a whole batch
MESSAGE = 500  # characters of an error: a value that is named in it may be a whole text
SMALL = 65_536  # bytes of a body that may always be sent: uvicorn reads as many before anyone asks for them
DRAINED = 8  # times the limit of a body that are read and dropped, so that its sender gets the answer
SECONDS = "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"  # environment variable: seconds that an answer may take
JSON_TYPES = {"string": "string", "long": "integer", "double": "number", "boolean": "boolean"}


class RequestHandler:
    """Answers requests: the body of a request in, the body of the response out.

    Args:
        limits: of a request, those that are given; the others are those of the service's kind.
        strict: whether a column that the model does not have is refused, or left out as MLflow does.
    """

    def __init__(self, service: Service, limits: Mapping[str, float], *, strict: bool = True) -> None:
        self.service = service
        self._scorer: Scorer = service.open()
        own: Limits = getattr(self._scorer, "limits", Limits())
        self.limits = Limits.model_validate(own.model_dump() | dict(limits))
        self._contract = RequestContract(service.columns, self.limits, strict)

    def answer(self, body: bytes, content_type: str | None) -> bytes:
        """Predictions as JSON; raises a RefusedError where the request is at fault."""
        frame = read_frame(body, content_type, self._contract)
        try:
            return write_predictions(self._scorer.predict(frame))
        except DataError as error:
            raise RefusedError(400, one_line(error)) from error


def make_app(handler: RequestHandler, name: str = "embedline") -> FastAPI:
    """Application with ``/invocations``, MLflow's ``/ping``, ``/health`` and ``/version``, and ``/docs``."""
    app = FastAPI(title=name, version=version("embedline"))
    bodies, seconds = BodyReader(handler.limits), float(os.environ.get(SECONDS, "60"))
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="predict")

    @app.post("/invocations", openapi_extra={"requestBody": _describe_request(handler.service)})
    async def predict(request: Request) -> Response:
        """Predict the rows of a request."""
        try:
            body = await bodies.read(request)
            try:
                answer = partial(handler.answer, body, request.headers.get("content-type"))
                async with asyncio.timeout(seconds):
                    found = await asyncio.get_running_loop().run_in_executor(threads, answer)
            finally:
                bodies.release(body)
        except RefusedError as error:
            return _refusal(error.status, str(error))
        except TimeoutError:
            return _refusal(504, f"the answer took more than {seconds:g} s")
        except Exception:  # a fault of ours: the log has it, the client need not see our insides
            logger.exception("A request was not answered")
            return _refusal(500, "the server failed to answer; its log says why")
        return Response(found, media_type=JSON)

    @app.get("/ping")
    @app.get("/health")
    async def ping() -> Response:
        """Say that the server is ready."""
        return Response("\n", media_type=JSON)

    @app.get("/version")
    async def mlflow_version() -> Response:
        """Version of MLflow, whose protocol this is."""
        return Response(version("mlflow"), media_type=JSON)

    return app


class BodyReader:
    """Reads the bodies of requests; what all of them hold together, until they are answered, is bounded."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held, self._most = 0, int(limits.waiting * limits.body)  # bytes beyond SMALL of each

    async def read(self, request: Request) -> bytes:
        """The whole body, which counts until it is given to :meth:`release`.

        One that is too long, too slow or compressed, or for which there is no room, is a RefusedError; the rest of a
        long one is read and dropped, since clients that send first and read afterwards would not see an answer in the
        middle of it.
        """
        self._check_headers(request)
        refused: RefusedError | None = None
        read = bytearray()  # not a list of pieces, whose memory would not go back to the system
        size = held = 0
        try:
            async with asyncio.timeout(self._limits.seconds):
                async for chunk in request.stream():
                    size += len(chunk)
                    refused = refused or self._check_size(size, held)
                    if refused:
                        read.clear()
                    else:
                        read += chunk
                    now = 0 if refused else _counted(size)
                    held, self._held = now, self._held + now - held
                    if size > DRAINED * self._limits.body:
                        break
            if refused:
                raise refused
            body, held = bytes(read), 0
        except TimeoutError as error:
            raise RefusedError(408, f"the body was not there after {self._limits.seconds:g} s") from error
        except ClientDisconnect as error:
            raise RefusedError(400, "the client went away") from error
        finally:
            self._held -= held
        return body

    def release(self, body: bytes) -> None:
        """The body is answered."""
        self._held -= _counted(len(body))

    def _check_size(self, size: int, held: int) -> RefusedError | None:
        if size > self._limits.body:
            return _too_long(self._limits)
        if self._held + _counted(size) - held > self._most:
            return RefusedError(503, "the server holds as many large bodies as it may: try again")
        return None

    def _check_headers(self, request: Request) -> None:
        """Refuse what needs no look at the body."""
        if (encoding := request.headers.get("content-encoding", "identity").lower()) != "identity":
            raise RefusedError(415, f"the body must not be compressed; the Content-Encoding says {encoding[:50]!r}")
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self._limits.body and "expect" in request.headers:
            raise _too_long(self._limits)  # the client waits for leave to send


def _counted(size: int) -> int:
    return max(0, size - SMALL)


def _too_long(limits: Limits) -> RefusedError:
    return RefusedError(413, f"the body may have {limits.body:,} bytes; this one has more")


def _refusal(status: int, message: str) -> Response:
    """An error as MLflow's clients expect it."""
    content = json.dumps({"error_code": HTTPStatus(status).name, "message": message[:MESSAGE]})
    # After these the rest of the body may still be on its way.
    headers = {"connection": "close"} if status in (408, 413, 503) else {}
    if status == 503:
        headers["retry-after"] = "1"
    return Response(content, status, headers, media_type=JSON)


def _describe_request(service: Service) -> dict[str, Any]:
    """What OpenAPI says of a body: the columns of the model, and the example."""
    properties = {
        column.name: {"type": JSON_TYPES[column.type], "nullable": True} if column.type in JSON_TYPES else {}
        for column in service.columns
    }
    row = {
        "type": "object",
        "properties": properties,
        "required": [column.name for column in service.columns if column.required],
    }
    records = {"type": "object", "properties": {"dataframe_records": {"type": "array", "items": row}}}
    table: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
    return {
        "required": True,
        "content": {
            JSON: {"schema": records, "example": {"dataframe_records": service.example}},
            CSV: table,
            PARQUET: table,
        },
    }
