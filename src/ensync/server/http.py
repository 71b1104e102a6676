"""The little of HTTP/1.1 that the admin endpoint needs: one JSON request for each connection."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, NamedTuple, TypeAlias

import anyio
from anyio.abc import SocketAttribute, SocketListener, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

__all__ = ["Handler", "HttpError", "JsonRequest", "port_of", "serve_json"]

logger = logging.getLogger("ensync")

_MAX_HEAD = 16 * 1024
_MAX_BODY = 256 * 1024
_TIME_LIMIT = 10.0  # seconds for one request, its answer included


class JsonRequest(NamedTuple):
    """A request as its handler sees it. Header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class HttpError(Exception):
    """Ends a request with this status; the text goes to whoever asked."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


Handler: TypeAlias = Callable[[JsonRequest], Awaitable[object]]


async def serve_json(listener: SocketListener, handler: Handler) -> None:
    """Answers requests by what the handler returns, as JSON, until it is cancelled."""

    async def serve_one(stream: SocketStream) -> None:
        async with stream:
            with anyio.move_on_after(_TIME_LIMIT):
                try:
                    await stream.send(await _answer(stream, handler))
                except anyio.BrokenResourceError:
                    return  # it has gone, and wants no answer

    await listener.serve(serve_one)


def port_of(listener: SocketListener) -> int:
    """Where a listener listens."""
    port: int = listener.extra(SocketAttribute.local_port)  # noqa: S610 - not Django's
    return port


async def _answer(stream: SocketStream, handler: Handler) -> bytes:
    try:
        request = await _read(BufferedByteReceiveStream(stream))
        return _response(HTTPStatus.OK, await handler(request))
    except HttpError as error:
        return _response(error.status, {"error": str(error)})
    except Exception:  # one request's failure must not end the engine
        logger.exception("an admin request failed")
        return _response(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": "internal error"})


async def _read(stream: BufferedByteReceiveStream) -> JsonRequest:
    try:
        head = (await stream.receive_until(b"\r\n\r\n", _MAX_HEAD)).decode("latin-1")
    except (anyio.DelimiterNotFound, anyio.IncompleteRead) as error:
        raise HttpError(HTTPStatus.BAD_REQUEST, "this is not an HTTP request") from error
    first, *lines = head.split("\r\n")
    words = first.split(" ")
    if len(words) != 3:  # noqa: PLR2004 - method, path, version
        raise HttpError(HTTPStatus.BAD_REQUEST, "this is not an HTTP request")
    headers = _headers(lines)
    return JsonRequest(words[0], words[1], headers, await _body(stream, headers))


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


def _response(status: HTTPStatus, value: object) -> bytes:
    body = json.dumps(value, ensure_ascii=False).encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body
