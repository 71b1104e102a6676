"""The page: who may look, and that it shows no more than it should."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import anyio
import pytest

import ensync
from ensync.server.admin import open_admin
from ensync.server.listening import CannotListenError
from ensync.server.local import LocalEngine
from ensync.server.ui import Page, open_page
from tests.unit.server.brokers import FullDisk
from tests.unit.server.http_client import talk
from tests.unit.server.http_serving import tls_ends

pytestmark = pytest.mark.anyio

SCRIPT = "<script>alert(1)</script>"


@asynccontextmanager
async def running() -> AsyncIterator[tuple[LocalEngine, Page]]:
    async with LocalEngine() as engine, open_page(engine) as page:
        yield engine, page


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


async def get(
    page: Page, path: str = "", *, host: str | None = "127.0.0.1", method: str = "GET"
) -> Answer:
    """Asks for a path below that of the page, or for any other that begins with a slash."""
    parts = urlsplit(page.url)
    target = path if path.startswith("/") else parts.path + path
    header = "" if host is None else f"Host: {host}\r\n"
    assert parts.port is not None
    received = await talk(parts.port, f"{method} {target} HTTP/1.1\r\n{header}\r\n".encode())
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Answer(int(first.split()[1]), headers, body)


async def state_of(page: Page) -> Any:
    answer = await get(page, "state")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    return json.loads(answer.body)


async def test_the_link_opens_the_page_and_what_it_loads() -> None:
    async with running() as (_, page):
        assert urlsplit(page.url).hostname == "127.0.0.1"
        for path, kind in (("", "html"), ("page.css", "css"), ("page.js", "javascript")):
            answer = await get(page, path)
            assert (answer.status, answer.headers["content-type"]) == (
                200,
                f"text/{kind}; charset=utf-8",
            )
        without_slash = await get(page, urlsplit(page.url).path.rstrip("/"))
        assert without_slash.status == 307
        assert f"/{without_slash.headers['location']}" == urlsplit(page.url).path


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/", "the token is missing: open the link"),
        ("/state", "wrong token: open the link"),
        ("/wrong/", "wrong token: open the link"),
        ("/wrong/state", "wrong token: open the link"),
        ("//state", "the token is missing"),
        ("/%ff/", "wrong token"),
        ("/\u00e4/", "wrong token"),
    ],
)
async def test_without_the_token_nothing_is_shown(path: str, text: str) -> None:
    async with running() as (_, page):
        answer = await get(page, path)
    assert answer.status == 403
    assert answer.text.startswith(text)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


async def test_the_token_is_new_each_time_and_not_that_of_the_admin_endpoint() -> None:
    async with running() as (engine, page), open_page(engine) as other, open_admin(engine) as admin:
        tokens = {urlsplit(url).path.strip("/") for url in (page.url, other.url, admin.url)}
    assert len(tokens) == 3
    assert all(len(token) >= 32 for token in tokens)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:80", "localhost:8083", "[::1]:1", "10.0.0.7"]
)
async def test_an_address_is_a_good_host(host: str) -> None:
    async with running() as (_, page):
        assert (await get(page, "state", host=host)).status == 200


@pytest.mark.parametrize(
    "host",
    [None, "", "engine.example.org", "localhost.example.org:80", "127.0.0.1.example.org", "[::1"],
)
async def test_a_name_that_somebody_else_points_here_is_refused(host: str | None) -> None:
    async with running() as (_, page):
        answer = await get(page, "state", host=host)
    assert answer.status == 403
    assert answer.text.startswith("the Host header must be")


async def test_the_host_that_is_listened_on_is_a_good_host() -> None:
    async with LocalEngine() as engine, open_page(engine, host="localhost") as page:
        assert page.url.startswith("http://localhost:")
        assert (await get(page, "state", host="LOCALHOST")).status == 200


@pytest.mark.parametrize("path", ["", "page.js", "page.css", "nothing", "/wrong/", "../page.js"])
async def test_the_browser_is_told_to_be_strict(path: str) -> None:
    async with running() as (_, page):
        answer = await get(page, path)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_what_is_not_there_is_not_found_and_nothing_can_be_done() -> None:
    async with running() as (engine, page):
        for path in ("nothing", "../page.js", "page.py", "state/", "apps"):
            assert (await get(page, path)).status == 404
        for method in ("POST", "DELETE", "PUT"):
            assert (await get(page, "apps", method=method)).status == 405
        assert engine.apps.list() == []


@pytest.mark.parametrize("name", ["page.html", "page.css", "page.js"])
async def test_nothing_comes_from_outside_and_no_text_becomes_markup(name: str) -> None:
    text = files("ensync.server.ui").joinpath(name).read_text(encoding="utf-8")
    links = set(re.findall(r"(?:https?:)?//[a-z][^\s'\"]*\.[^\s'\"]+", text))
    assert links <= {"http://www.w3.org/2000/svg"}
    for forbidden in (
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "@import",
    ):
        assert forbidden not in text
    if name == "page.html":
        assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son[a-z]+=", text)


async def test_it_shows_what_is_in_the_clear_and_nothing_else() -> None:
    async with running() as (engine, page):
        app = engine.create_app("shop")
        async with ensync.connect(
            engine.url, app_key=app.app_key, app_secret_key=app.secret_key
        ) as client:
            payload = {"marker": "never to be seen"}
            await client.publish(f"a/{SCRIPT}", [client.app_id], payload, {"note": SCRIPT})
            async with client.subscribe("b") as subscription:
                await subscription.pause()
                text = (await get(page, "state")).text
            (connected,) = engine.broker.clients
            (found,) = await engine.broker.store.browse(
                (await engine.broker.store.count_queues())[0].queue
            )
    state = json.loads(text)
    (event,) = state["events"]
    assert event["event_name"] == f"a/{SCRIPT}"
    assert json.loads(event["metadata"])["note"] == SCRIPT
    assert (event["sender"], event["recipient"]) == ("shop", "shop")
    assert event["plain_bytes"] == len(json.dumps(payload, separators=(",", ":")))
    assert event["sealed_bytes"] == len(found.stored.event.payload)
    assert event["logged_at_ms"] == found.stored.logged_at_ms
    (queue,) = state["queues"]["shown"]
    assert (queue["app"], queue["event_name"], queue["waiting"]) == ("shop", f"a/{SCRIPT}", 1)
    (shown,) = state["clients"]["shown"]
    assert shown["subscriptions"]["shown"] == [{"event_name": "b", "paused": True}]
    assert {name for name, count in state["totals"].items() if count} == {"waiting"}
    secrets = [app.app_key, app.secret_key, connected.client_id, found.stored.event.payload]
    for secret in [*secrets, "never to be seen", "marker"]:
        assert secret not in text


async def test_a_removed_app_is_named_by_its_id() -> None:
    async with running() as (engine, page):
        app = engine.create_app("shop")
        async with ensync.connect(engine.url, app_key=app.app_key) as client:
            await client.publish("a", [client.app_id], 1)
        await engine.remove_app(app.app_id)
        state = await state_of(page)
    assert state["events"][0]["sender"] == f"{app.app_id} (removed)"
    assert state["queues"]["shown"][0]["app"] == f"{app.app_id} (removed)"


async def test_nothing_is_observed_once_the_page_is_closed() -> None:
    async with LocalEngine() as engine:
        async with open_page(engine):
            assert len(engine.broker.observers) == 1
        assert engine.broker.observers == []


async def test_a_port_in_use_is_said() -> None:
    async with running() as (engine, page):
        port = urlsplit(page.url).port
        assert port is not None
        with pytest.raises(CannotListenError, match=rf"127\.0\.0\.1 port {port} for the page"):
            async with open_page(engine, port=port):
                pytest.fail("two listen on one port")
        assert len(engine.broker.observers) == 1


async def test_a_store_that_fails_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        LocalEngine(store=FullDisk()) as engine,
        open_page(engine) as page,
    ):
        told = await get(page, "state")
    assert told.status == 503
    assert told.text == "the engine's disk is full\n"
    assert caplog.records == []


async def test_with_tls_what_is_no_tls_is_closed_and_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ends = tls_ends()
    async with LocalEngine() as engine, open_page(engine, tls=ends.server) as page:
        assert page.url.startswith("https://127.0.0.1:")
        port = urlsplit(page.url).port
        assert port is not None
        assert b"HTTP/1.1" not in await talk(port, b"GET / HTTP/1.1\r\n\r\n")
        stream = await anyio.connect_tcp(
            "127.0.0.1", port, ssl_context=ends.client, tls_standard_compatible=False
        )
        async with stream:
            await stream.send(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert (await stream.receive()).startswith(b"HTTP/1.1 403 ")
    assert caplog.records == []


async def test_with_tls_any_name_will_do_as_the_certificate_is_for_it() -> None:
    ends = tls_ends()
    async with LocalEngine() as engine, open_page(engine, host="0.0.0.0", tls=ends.server) as page:
        parts = urlsplit(page.url)
        assert parts.port is not None
        stream = await anyio.connect_tcp(
            "127.0.0.1", parts.port, ssl_context=ends.client, tls_standard_compatible=False
        )
        async with stream:
            head = f"GET {parts.path}state HTTP/1.1\r\nHost: engine.example.org:{parts.port}"
            await stream.send(f"{head}\r\n\r\n".encode())
            assert (await stream.receive()).startswith(b"HTTP/1.1 200 ")


async def test_no_log_tells_the_token(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with running() as (_, page):
        await get(page)
        await get(page, "state")
        await get(page, "nothing")
        token = urlsplit(page.url).path.strip("/")
    assert token not in caplog.text
