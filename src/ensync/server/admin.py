"""The admin endpoint: what an engine is doing, and its apps, as JSON on loopback.

It is there for the ``ensync`` command. Whoever knows its token may do everything,
so the token is only printed to whoever starts the engine, and written to a file
that only the same user can read.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, TypeAlias, cast
from urllib.parse import unquote

from ensync.errors import EnSyncGenericError, EnSyncValidationError
from ensync.scopes import background_tasks
from ensync.server.apps import ANY_NAME, AppRecord
from ensync.server.http import HttpError, HttpRequest, serve_http, store_failures_told
from ensync.server.http_gate import Gate
from ensync.server.listening import listen, port_of
from ensync.server.local import LocalEngine

__all__ = ["AdminEndpoint", "open_admin"]

_HOST = "127.0.0.1"

Action: TypeAlias = Callable[[LocalEngine, str, Any], Awaitable[object]]


class AdminEndpoint:
    """Answers admin requests for one engine.

    Attributes:
        url: Where it is. It contains the token, so it is a secret.
    """

    def __init__(self, engine: LocalEngine, port: int) -> None:
        self._engine = engine
        self._gate = Gate(_HOST, "take the admin URL that ensync serve prints")
        self.url = f"http://{_HOST}:{port}/{self._gate.token}"

    async def handle(self, request: HttpRequest) -> object:
        """Does what is asked for, and returns the answer.

        Raises:
            HttpError: It can't be done.
        """
        what, app_id, *_ = [*self._gate.admit(request), "", ""]
        # A page in a browser can be made to ask loopback; this command never says where from.
        if "origin" in request.headers:
            raise HttpError(HTTPStatus.FORBIDDEN, "not for browsers")
        action = _ACTIONS.get((request.method, what))
        if action is None:
            raise HttpError(HTTPStatus.NOT_FOUND, "there is no such request")
        body = await request.body.read()
        try:
            with store_failures_told():
                return await action(self._engine, unquote(app_id), body)
        except EnSyncValidationError as error:
            raise HttpError(HTTPStatus.BAD_REQUEST, str(error)) from error
        except EnSyncGenericError as error:  # apps can't be written
            raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from error


@asynccontextmanager
async def open_admin(engine: LocalEngine, port: int = 0) -> AsyncGenerator[AdminEndpoint]:
    """Serves the admin endpoint of a running engine, on loopback only.

    Args:
        engine: The engine.
        port: 0: any free one.

    Raises:
        CannotListenError: The port can't be had.
    """
    listener = await listen("the admin endpoint", _HOST, port)
    endpoint = AdminEndpoint(engine, port_of(listener))
    async with listener, background_tasks() as tasks:
        tasks.start_soon(serve_http, listener, endpoint.handle)
        yield endpoint


async def _status(engine: LocalEngine, _app_id: str, _body: Any) -> object:
    names = {record.app_id: record.name for record in engine.apps.list()}
    queues = [
        {"app": names.get(counts.queue.app_id), **counts.queue._asdict(), **counts._asdict()}
        for counts in await engine.broker.store.count_queues()
    ]
    for queue in queues:
        del queue["queue"]
    return {
        "url": engine.url,
        "websocket_url": engine.websocket_url,
        "statistics": engine.statistics()._asdict(),
        "queues": queues,
        "clients": _clients(engine, names),
    }


def _clients(engine: LocalEngine, names: dict[str, str]) -> list[dict[str, object]]:
    return [
        {
            "app": names.get(client.app_id),
            "app_id": client.app_id,
            "subscriptions": [
                {"event_name": name, "paused": client.is_paused(name)} for name in client.consumers
            ],
        }
        for client in engine.broker.clients
    ]


async def _list_apps(engine: LocalEngine, _app_id: str, _body: Any) -> object:
    return [_shown(record) for record in engine.apps.list()]


async def _create_app(engine: LocalEngine, _app_id: str, body: Any) -> object:
    if not isinstance(body, dict):
        raise HttpError(HTTPStatus.BAD_REQUEST, "an app is a JSON object with a name")
    wishes = cast("dict[str, Any]", body)
    send, receive = (_names(wishes, key) for key in ("send", "receive"))
    return engine.create_app(wishes.get("name", ""), send=send, receive=receive)._asdict()


def _names(wishes: dict[str, Any], key: str) -> Iterable[str]:
    names = wishes.get(key) or [ANY_NAME]
    if not isinstance(names, list):
        raise HttpError(HTTPStatus.BAD_REQUEST, f"{key} must be a list of event names")
    return cast("list[str]", names)


async def _rotate_app(engine: LocalEngine, app_id: str, _body: Any) -> object:
    return {"app_id": app_id, "app_key": engine.apps.rotate(app_id)}


async def _remove_app(engine: LocalEngine, app_id: str, _body: Any) -> object:
    await engine.remove_app(app_id)
    return {"app_id": app_id}


def _shown(record: AppRecord) -> dict[str, object]:
    return {
        "name": record.name,
        "app_id": record.app_id,
        "send": sorted(record.send),
        "receive": sorted(record.receive),
    }


_ACTIONS: dict[tuple[str, str], Action] = {
    ("GET", "status"): _status,
    ("GET", "apps"): _list_apps,
    ("POST", "apps"): _create_app,
    ("POST", "rotate"): _rotate_app,
    ("DELETE", "apps"): _remove_app,
}
