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

__all__ = [
    "Handler",
    "HttpAnswer",
    "HttpBody",
    "HttpError",
    "HttpRequest",
    "serve_http",
    "store_failures_told",
]

logger = logging.getLogger("ensync")

_MAX_HEAD = 16 * 1024
_MAX_BODY = 256 * 1024
_MAX_DIGITS = 10  # of a number that is the length of a body
_TIME_LIMIT = 10.0  # seconds for one request, its answer included
_SKIP_LIMIT = 1.0  # seconds

# A TLS stream whose peer has gone may raise each of them, when it is read and when it is written.
_GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError)


class HttpBody:
    """What follows the head of a request, and is not read before somebody wants it.

    So whoever may not ask can't make the engine read and parse anything.
    """

    def __init__(self, stream: BufferedByteReceiveStream, length: int) -> None:
        self._stream = stream
        self._length = length
        self._was_read = False

    async def read(self) -> Any:
        """Reads the body, which must be JSON. None: there is none.

        Raises:
            HttpError: It is not JSON.
        """
        self._was_read = True
        if self._length == 0:
            return None
        try:
            return json.loads(await self._stream.receive_exactly(self._length))
        except (ValueError, RecursionError, anyio.IncompleteRead) as error:
            raise HttpError(HTTPStatus.BAD_REQUEST, "the body is not JSON") from error
        except _GONE as error:
            raise _HasGoneError from error

    async def skip(self) -> None:
        """Lets a body that nobody has read arrive: who still sends doesn't read the answer."""
        if self._was_read:
            return
        with anyio.move_on_after(_SKIP_LIMIT):
            rest = self._length
            while rest > 0:
                rest -= len(await self._stream.receive())


class HttpRequest(NamedTuple):
    """A request as its handler sees it. Header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: HttpBody


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


class _HasGoneError(Exception):
    """Whoever asked has gone while its request was being handled."""


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
        try:
            async with stream:
                with anyio.move_on_after(_TIME_LIMIT):
                    await _serve(stream, handler)
        except (*_GONE, _HasGoneError) as error:
            logger.debug("who asked the engine's HTTP endpoint has gone: %r", error)
        except Exception:  # one connection's failure must not end the engine
            logger.exception("a connection to the engine's HTTP endpoint failed")

    await listener.serve(serve_one)


async def _serve(stream: ByteStream, handler: Handler) -> None:
    try:
        request = await _read_head(BufferedByteReceiveStream(stream))
    except HttpError as error:
        await stream.send(_refused(error))
        return
    await stream.send(await _answer(request, handler))
    await request.body.skip()


async def _answer(request: HttpRequest, handler: Handler) -> bytes:
    try:
        return _encoded(await handler(request))
    except HttpError as error:
        return _refused(error)
    except _HasGoneError:
        raise
    except Exception:  # one request's failure must not end the engine
        logger.exception("a request to the engine's HTTP endpoint failed")
        return _encoded(_as_json({"error": "internal error"}, HTTPStatus.INTERNAL_SERVER_ERROR))


async def _read_head(stream: BufferedByteReceiveStream) -> HttpRequest:
    try:
        head = (await stream.receive_until(b"\r\n\r\n", _MAX_HEAD)).decode("latin-1")
    except (anyio.DelimiterNotFound, anyio.IncompleteRead) as error:
        raise HttpError(HTTPStatus.BAD_REQUEST, "this is not an HTTP request") from error
    first, *lines = head.split("\r\n")
    words = first.split(" ")
    if len(words) != 3:  # noqa: PLR2004 - method, path, version
        raise HttpError(HTTPStatus.BAD_REQUEST, "this is not an HTTP request")
    headers = _headers(lines)
    return HttpRequest(words[0], words[1], headers, HttpBody(stream, _length(headers)))


def _headers(lines: list[str]) -> dict[str, str]:
    pairs = (line.partition(":") for line in lines)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _length(headers: Mapping[str, str]) -> int:
    length = headers.get("content-length", "0")
    is_number = length.isascii() and length.isdigit() and len(length) <= _MAX_DIGITS
    if not is_number or "transfer-encoding" in headers:
        raise HttpError(HTTPStatus.BAD_REQUEST, "content-length must say how long the body is")
    if int(length) > _MAX_BODY:
        raise HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is too large")
    return int(length)


def _refused(error: HttpError) -> bytes:
    return _encoded(_as_json({"error": str(error)}, error.status))


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
