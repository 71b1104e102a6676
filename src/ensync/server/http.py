"""The little of HTTP/1.1 that an engine needs: one request for each connection."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, NamedTuple, TypeAlias

import anyio
from anyio.abc import ByteStream, Listener
from anyio.streams.buffered import BufferedByteReceiveStream

from ensync.server.store import StoreFailedError

__all__ = ["Handler", "HttpAnswer", "HttpError", "HttpRequest", "serve_http", "store_failures_told"]

logger = logging.getLogger("ensync")

_MAX_HEAD = 16 * 1024
_MAX_BODY = 256 * 1024
_TIME_LIMIT = 10.0  # seconds for one request, its answer included


class HttpRequest(NamedTuple):
    """A request as its handler sees it. Header names are in lower case; a body is JSON."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class HttpAnswer(NamedTuple):
    """An answer that is something else than a JSON value."""

    body: bytes
    media_type: str
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = {}


class HttpError(Exception):
    """Ends a request with this status; the text goes to whoever asked."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


Handler: TypeAlias = Callable[[HttpRequest], Awaitable[object]]


@contextmanager
def store_failures_told() -> Iterator[None]:
    """Ends a request with 503 when the engine can't use its store, which it has logged."""
    try:
        yield
    except StoreFailedError as error:
        raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from error


async def serve_http(listener: Listener[ByteStream], handler: Handler) -> None:
    """Answers requests by what the handler returns, until it is cancelled.

    That is an HttpAnswer, or any other value, which is sent as JSON.
    """

    async def serve_one(stream: ByteStream) -> None:
        async with stream:
            with anyio.move_on_after(_TIME_LIMIT):
                try:
                    await stream.send(await _answer(stream, handler))
                except anyio.BrokenResourceError:
                    return  # it has gone, and wants no answer

    await listener.serve(serve_one)


async def _answer(stream: ByteStream, handler: Handler) -> bytes:
    try:
        request = await _read(BufferedByteReceiveStream(stream))
        return _encoded(await handler(request))
    except HttpError as error:
        return _encoded(_as_json({"error": str(error)}, error.status))
    except Exception:  # one request's failure must not end the engine
        logger.exception("a request to the engine's HTTP endpoint failed")
        return _encoded(_as_json({"error": "internal error"}, HTTPStatus.INTERNAL_SERVER_ERROR))


async def _read(stream: BufferedByteReceiveStream) -> HttpRequest:
    try:
        head = (await stream.receive_until(b"\r\n\r\n", _MAX_HEAD)).decode("latin-1")
    except (anyio.DelimiterNotFound, anyio.IncompleteRead) as error:
        raise HttpError(HTTPStatus.BAD_REQUEST, "this is not an HTTP request") from error
    first, *lines = head.split("\r\n")
    words = first.split(" ")
    if len(words) != 3:  # noqa: PLR2004 - method, path, version
        raise HttpError(HTTPStatus.BAD_REQUEST, "this is not an HTTP request")
    headers = _headers(lines)
    return HttpRequest(words[0], words[1], headers, await _body(stream, headers))


def _headers(lines: list[str]) -> dict[str, str]:
    pairs = (line.partition(":") for line in lines)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


async def _body(stream: BufferedByteReceiveStream, headers: dict[str, str]) -> Any:
    length = headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit() or "transfer-encoding" in headers:
        raise HttpError(HTTPStatus.BAD_REQUEST, "content-length must say how long the body is")
    if int(length) > _MAX_BODY:
        raise HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is too large")
    if int(length) == 0:
        return None
    try:
        return json.loads(await stream.receive_exactly(int(length)))
    except (ValueError, RecursionError, anyio.IncompleteRead) as error:
        raise HttpError(HTTPStatus.BAD_REQUEST, "the body is not JSON") from error


def _as_json(value: object, status: HTTPStatus = HTTPStatus.OK) -> HttpAnswer:
    return HttpAnswer(json.dumps(value, ensure_ascii=False).encode(), "application/json", status)


def _encoded(result: object) -> bytes:
    answer = result if isinstance(result, HttpAnswer) else _as_json(result)
    headers = {
        "Content-Type": answer.media_type,
        "Content-Length": str(len(answer.body)),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Connection": "close",
        **answer.headers,
    }
    lines = [f"HTTP/1.1 {answer.status.value} {answer.status.phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + answer.body
