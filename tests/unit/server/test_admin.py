"""The admin endpoint: who may ask, and what it makes of nonsense."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urlsplit

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ensync
from ensync.errors import EnSyncGenericError
from ensync.server.admin import AdminEndpoint, open_admin
from ensync.server.apps import AppRecord, MemoryAppStorage
from ensync.server.http import HttpRequest
from ensync.server.listening import CannotListenError
from ensync.server.local import LocalEngine
from ensync.server.memory import MemoryStore
from tests.unit.server.brokers import FullDisk
from tests.unit.server.http_client import talk
from tests.unit.server.http_serving import serving

pytestmark = pytest.mark.anyio

HOST = "Host: 127.0.0.1\r\n"
OTHER_ORIGIN = f"{HOST}Origin: http://example.org\r\n"


@asynccontextmanager
async def running() -> AsyncIterator[tuple[LocalEngine, AdminEndpoint]]:
    async with LocalEngine() as engine, open_admin(engine) as admin:
        yield engine, admin


async def ask(
    admin: AdminEndpoint,
    method: str,
    path: str,
    body: object = None,
    headers: str = HOST,
) -> tuple[int, Any]:
    parts = urlsplit(admin.url)
    content = b"" if body is None else json.dumps(body).encode()
    target = path[1:] if path.startswith("//") else f"{parts.path}/{path}"
    head = f"{method} {target} HTTP/1.1\r\nContent-Length: {len(content)}\r\n{headers}\r\n"
    assert parts.port is not None
    answer = await talk(parts.port, head.encode() + content)
    first, _, rest = answer.partition(b"\r\n")
    return int(first.split()[1]), json.loads(rest.partition(b"\r\n\r\n")[2])


async def test_status_tells_queues_and_clients() -> None:
    async with running() as (engine, admin):
        app = engine.create_app("shop")
        async with ensync.connect(
            engine.url, app_key=app.app_key, app_secret_key=app.secret_key
        ) as client:
            await client.publish("a", [client.app_id], 1)
            async with client.subscribe("b") as subscription:
                await subscription.pause()
                code, status = await ask(admin, "GET", "status")
    assert code == 200
    (queue,) = status["queues"]
    assert (queue["app"], queue["event_name"], queue["waiting"]) == ("shop", "a", 1)
    (shown,) = status["clients"]
    assert shown["app"] == "shop"
    assert shown["subscriptions"] == [{"event_name": "b", "paused": True}]
    assert status["statistics"]["published"] == 1
    assert app.app_key not in json.dumps(status)


async def test_apps_are_made_rotated_and_removed() -> None:
    async with running() as (engine, admin):
        code, made = await ask(admin, "POST", "apps", {"name": "shop", "send": ["x"]})
        assert code == 200
        record = engine.apps.get(made["app_id"])
        assert record is not None
        assert (record.send, record.receive) == (frozenset({"x"}), frozenset({"*"}))
        code, rotated = await ask(admin, "POST", f"rotate/{quote(made['app_id'], safe='')}")
        assert code == 200
        assert engine.apps.authenticate(made["app_key"]) is None
        assert engine.apps.authenticate(rotated["app_key"]) == engine.apps.get(made["app_id"])
        code, _ = await ask(admin, "DELETE", f"apps/{quote(made['app_id'], safe='')}")
        assert code == 200
        assert engine.apps.list() == []


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "code", "text"),
    [
        ("GET", "//wrong/status", None, HOST, 403, "wrong token"),
        ("GET", "//", None, HOST, 403, "the token is missing"),
        ("GET", "status", None, OTHER_ORIGIN, 403, "not for browsers"),
        ("GET", "status", None, "Host: engine.example.org\r\n", 403, "the Host header must be"),
        ("GET", "", None, HOST, 404, "no such request"),
        ("PUT", "status", None, HOST, 404, "no such request"),
        ("POST", "apps", None, HOST, 400, "an app is a JSON object"),
        ("POST", "apps", {"name": ""}, HOST, 400, "name must have"),
        ("POST", "apps", {"name": 7}, HOST, 400, "name must be a str"),
        ("POST", "apps", {"name": "x", "send": "all"}, HOST, 400, "send must be a list"),
        ("POST", "apps", {"name": "x", "send": [1]}, HOST, 400, "a name in send must be a str"),
        ("POST", "rotate/nobody", None, HOST, 400, "there is no app"),
        ("DELETE", "apps/nobody", None, HOST, 400, "there is no app"),
        (
            "POST",
            "apps",
            {"name": "x", "receive": ["orders/*"]},
            HOST,
            400,
            "receive is 'orders/*', but there are no patterns",
        ),
        ("POST", "apps", {"name": "x", "send": ["a", "**"]}, HOST, 400, "no patterns"),
    ],
)
async def test_what_is_wrong_is_refused(
    method: str, path: str, body: object, headers: str, code: int, text: str
) -> None:
    async with running() as (engine, admin):
        answered, answer = await ask(admin, method, path, body, headers)
        assert (answered, engine.apps.list()) == (code, [])
    assert text in answer["error"]


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"", 400),
        (b"\x00\xff\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET " + b"x" * 20_000, 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
    ],
)
async def test_what_is_not_a_request_is_answered_too(
    sent: bytes, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as (_, admin):
        port = urlsplit(admin.url).port
        assert port is not None
        answer = await talk(port, sent)
        assert answer.startswith(f"HTTP/1.1 {code} ".encode())
        assert (await ask(admin, "GET", "apps"))[0] == 200
    assert caplog.records == []


@pytest.mark.parametrize(
    ("length", "body"), [(5, "{}"), (2, "{]"), (3, "NaN]"), (1000, "[" * 1000)]
)
async def test_a_body_that_is_no_json_is_refused(length: int, body: str) -> None:
    async with running() as (_, admin):
        parts = urlsplit(admin.url)
        head = f"POST {parts.path}/apps HTTP/1.1\r\n{HOST}Content-Length: {length}\r\n\r\n"
        assert parts.port is not None
        assert (await talk(parts.port, f"{head}{body}".encode())).startswith(b"HTTP/1.1 400 ")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(sent=st.binary(max_size=200))
async def test_no_bytes_end_it(sent: bytes) -> None:
    async def answer(_request: HttpRequest) -> object:
        return "fine"

    async with serving(answer) as port:
        await talk(port, sent)
        last = await talk(port, b"GET / HTTP/1.1\r\n\r\n")
    assert last.endswith(b'"fine"')


@pytest.mark.parametrize("error", [RuntimeError("inside"), OSError("inside"), anyio.EndOfStream()])
async def test_a_failure_inside_is_logged_and_ends_nothing(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_request: HttpRequest) -> object:
        raise error

    async with serving(fail) as port:
        for _ in range(2):
            answer = await talk(port, b"GET / HTTP/1.1\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 500 ")
            assert b"inside" not in answer
    assert len(caplog.records) == 2


async def test_a_store_that_fails_is_told() -> None:
    async with LocalEngine(store=FullDisk()) as engine, open_admin(engine) as admin:
        assert await ask(admin, "GET", "status") == (503, {"error": "the engine's disk is full"})


class UnwritableApps(MemoryAppStorage):
    """Keeps what it has once its disk is full."""

    is_full = False

    def save(self, record: AppRecord) -> None:
        self._refuse()
        super().save(record)

    def remove(self, app_id: str) -> None:
        self._refuse()
        super().remove(app_id)

    def _refuse(self) -> None:
        if self.is_full:
            raise EnSyncGenericError("the data file can't be written: the disk is full")


async def test_apps_that_can_not_be_written_are_told_and_left_as_they_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    storage = UnwritableApps()
    async with (
        LocalEngine(store=MemoryStore(), app_storage=storage) as engine,
        open_admin(engine) as admin,
    ):
        app = engine.create_app("shop")
        storage.is_full = True
        app_id = quote(app.app_id, safe="")
        for method, path in (
            ("POST", "apps"),
            ("POST", f"rotate/{app_id}"),
            ("DELETE", f"apps/{app_id}"),
        ):
            code, answer = await ask(admin, method, path, {"name": "another"})
            assert (code, answer["error"].endswith("the disk is full")) == (503, True)
        assert [record.name for record in engine.apps.list()] == ["shop"]
        assert engine.apps.authenticate(app.app_key) is not None
    assert caplog.records == []


async def test_a_port_in_use_is_said() -> None:
    async with running() as (engine, admin):
        port = urlsplit(admin.url).port
        assert port is not None
        with pytest.raises(
            CannotListenError, match=r"on 127\.0\.0\.1 port \d+ for the admin"
        ) as told:
            async with open_admin(engine, port):
                pytest.fail("two listen on one port")
    assert (told.value.code, told.value.port_is_to_blame) == ("cannot_listen", True)
