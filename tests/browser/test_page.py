"""The page of `ensync serve --ui`, in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import ensync
from tests.browser.chromium import Screen, Tab
from tests.unit.cli.command import started_command
from tests.unit.cli.served import Served, served

pytestmark = [pytest.mark.browser, pytest.mark.timeout(90)]

SCREENS = [
    Screen(1280, 800, dark=False),
    Screen(1280, 800, dark=True),
    Screen(390, 844, dark=False),
    Screen(390, 844, dark=True),
]
PNG = b"\x89PNG\r\n"
MARKUP = "<script>window.taken=1</script><img src=x onerror=window.taken=1>"
LONG_NAME = "a/" + "name-without-any-blank" * 20

LIVE = "document.querySelector('#connection')?.textContent === 'live'"
COUNT = "document.querySelector('#{}').textContent"
TEXT = "document.body.innerText"


@pytest.fixture(scope="module")
def engine() -> Iterator[Served]:
    with served("--ui") as running:
        yield running


@pytest.fixture
def new_engine() -> Iterator[Served]:
    with served("--ui") as running:
        yield running


def publish(engine: Served, name: str, count: int = 1, metadata: Any = None) -> None:
    async def run() -> None:
        app = engine.told["app"]
        async with ensync.connect(engine.told["url"], app_key=app["app_key"]) as client:
            for number in range(count):
                payload = {"never to be seen": number}
                await client.publish(name, [client.app_id], payload, metadata)

    anyio.run(run)


def look(tab: Tab, engine: Served, screen: Screen = SCREENS[0]) -> None:
    tab.reset()
    tab.use(screen)
    tab.open(engine.told["ui_url"])
    tab.wait_for(LIVE)


def test_an_engine_with_nothing_in_it_says_what_to_do(tab: Tab, new_engine: Served) -> None:
    look(tab, new_engine)
    text = tab.evaluate(TEXT)
    assert "No events yet. Publish one from a terminal:" in text
    assert "No client is connected." in text
    assert "Nothing has been published since the engine was started." in text
    assert new_engine.told["url"] in text
    assert tab.complaints == []


def test_it_is_live(tab: Tab, new_engine: Served) -> None:
    look(tab, new_engine)
    assert tab.evaluate(COUNT.format("waiting")) == "0"
    publish(new_engine, "orders/paid", 3, {"source": "web"})
    tab.wait_for(COUNT.format("waiting") + " === '3'")
    assert tab.evaluate("document.title") == "3 waiting - ensync engine"
    arguments = ("subscribe", "orders/paid")
    with started_command(*arguments, variables=new_engine.variables):
        tab.wait_for("document.querySelector('#clients').innerText.includes('orders/paid')")
        tab.wait_for(COUNT.format("waiting") + " === '0'")
    tab.wait_for("document.querySelector('#clients').rows.length === 0")
    publish(new_engine, "offers/flash", 2, {"ttl": 0.001})
    tab.wait_for(COUNT.format("expired") + " === '2'")
    queues = tab.evaluate("document.querySelector('#queues').innerText")
    assert "offers/flash\t0\t0\t0\t0\t2" in queues
    points = "document.querySelector('polyline.{}').points.length > 1"
    for series in ("published", "delivered", "acknowledged"):
        tab.wait_for(points.format(series))
    assert tab.complaints == []


def test_names_and_metadata_are_text_and_payloads_are_not_there(tab: Tab, engine: Served) -> None:
    publish(engine, MARKUP, 1, {"note": MARKUP})
    look(tab, engine)
    queues, events = (
        tab.wait_for(f"document.querySelector('#{part}').innerText")
        for part in ("queues", "events")
    )
    assert MARKUP in queues
    assert MARKUP in events
    assert json.dumps({"note": MARKUP}, separators=(",", ":")) in events.replace("\n", "")
    assert tab.evaluate("document.querySelectorAll('main img, main script').length") == 0
    assert tab.evaluate("window.taken ?? 'not taken'") == "not taken"
    assert "never to be seen" not in tab.evaluate("document.documentElement.outerHTML")
    assert tab.complaints == []


def test_the_policy_of_the_page_forbids_markup_and_scripts(tab: Tab, engine: Served) -> None:
    look(tab, engine)
    attempt = "(() => {{ try {{ {}; return 'done' }} catch (error) {{ return error.name }} }})()"
    for change in ("document.body.innerHTML = '<b>x</b>'", "eval('1')"):
        assert tab.evaluate(attempt.format(change)) in ("TypeError", "EvalError")
    tab.evaluate("void fetch('http://127.0.0.1:1/').catch(() => { window.refused = true })")
    tab.wait_for("window.refused")
    assert any("Content Security Policy" in complaint for complaint in tab.complaints)


@pytest.mark.parametrize("screen", SCREENS, ids=str)
def test_it_fits_the_screen(tab: Tab, engine: Served, screen: Screen, tmp_path: Path) -> None:
    for name in ("orders/created", "orders/paid", LONG_NAME):
        publish(engine, name, 10, {"trace": "4bf92f3577b34da6a3ce929d0e0e4736" * 10})
    look(tab, engine, screen)
    tab.wait_for("document.querySelector('#events').rows.length === 30")
    assert tab.evaluate("document.documentElement.scrollWidth") <= screen.width
    overflowing = "[...document.querySelectorAll('main *')].filter(one => {}).length"
    beyond = f"one.getBoundingClientRect().right > {screen.width} && one.clientWidth > 1"
    assert tab.evaluate(overflowing.format(beyond)) == 0
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in ground.strip("rgb()").split(","))
    assert (brightness < 128) == screen.dark
    tab.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("screen", [SCREENS[0], SCREENS[2]], ids=str)
def test_a_screen_reader_finds_its_way(tab: Tab, engine: Served, screen: Screen) -> None:
    publish(engine, "orders/paid")
    look(tab, engine, screen)
    tab.wait_for("document.querySelector('#queues').rows.length")
    tab.call("Accessibility.enable")
    nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
    tab.call("Accessibility.disable")
    found = {(_value(node, "role"), _value(node, "name")) for node in nodes}
    for heading in ("ensync engine", "Events per second", "Queues", "Clients", "Latest events"):
        assert ("heading", heading) in found
    assert {("table", "Queues"), ("table", "Latest events"), ("cell", "orders/paid")} <= found
    assert ("columnheader", "Waiting") in found
    (plot,) = [name for role, name in found if role in ("image", "img")]
    assert plot.startswith("Events per second over the last five minutes")
    assert "status" in {role for role, _ in found}


def _value(node: Any, part: str) -> str:
    return str(node.get(part, {}).get("value", ""))


def test_pointing_at_the_plot_tells_the_rates_of_then(tab: Tab, engine: Served) -> None:
    look(tab, engine)
    tab.wait_for("document.querySelector('polyline.published').points.length > 1")
    box = tab.evaluate("document.querySelector('#plot').getBoundingClientRect().toJSON()")
    x, y = box["right"] - 10, box["top"] + box["height"] / 2
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    tab.wait_for("document.querySelector('#when').textContent.endsWith('s ago')")
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    tab.wait_for("document.querySelector('#when').textContent === 'now'")


def test_a_lost_engine_is_said_and_a_new_one_has_a_new_link(tab: Tab, new_engine: Served) -> None:
    look(tab, new_engine)
    port = new_engine.told["ui_url"].split("/")[2].partition(":")[2]
    new_engine.process.kill()
    new_engine.process.wait()
    tab.wait_for("document.querySelector('#connection').textContent === 'connection lost'")
    assert "The connection to the engine is lost." in tab.evaluate(TEXT)
    assert tab.evaluate("getComputedStyle(document.querySelector('main')).opacity") == "0.5"
    with served("--ui", "--ui-port", port):
        tab.wait_for("document.querySelector('#connection').textContent === 'not admitted'")
    assert "This link is not valid any more" in tab.evaluate(TEXT)


def test_without_the_token_there_is_only_advice(tab: Tab, engine: Served) -> None:
    root = engine.told["ui_url"].rsplit("/", 2)[0]
    for path, text in (("/", "the token is missing"), ("/wrong/", "wrong token")):
        tab.open(f"{root}{path}")
        tab.wait_for(f"document.body.innerText.startsWith({json.dumps(text)})")
        assert "open the link that was printed" in tab.evaluate(TEXT)
