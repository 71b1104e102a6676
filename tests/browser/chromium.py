"""A real browser without a window, spoken to by the DevTools protocol."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from websockets.sync.client import ClientConnection, connect

EXECUTABLES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)
LIMIT = 20.0  # seconds; a browser starts slowly on a busy machine
LOOK_AGAIN = 0.05
LARGEST_MESSAGE = 1 << 26


class Screen(NamedTuple):
    """What a page is shown on."""

    width: int = 1280
    height: int = 800
    dark: bool = False


class Tab:
    """An open page.

    Attributes:
        complaints: What the browser has had to complain of: errors in scripts, what the
            content security policy forbids, failed requests, dialogs.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._last_id = 0
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> Any:
        """Asks the browser to do something, and returns its answer."""
        self._last_id += 1
        request = {"id": self._last_id, "method": method, "params": parameters}
        self._connection.send(json.dumps(request))
        while True:
            message: Any = json.loads(self._connection.recv(LIMIT))
            if message.get("id") == self._last_id:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message: Any) -> None:
        if message["method"] in ("Runtime.exceptionThrown", "Page.javascriptDialogOpening"):
            self.complaints.append(json.dumps(message["params"]))
        elif message["method"] == "Log.entryAdded":
            self.complaints.append(message["params"]["entry"]["text"])

    def use(self, screen: Screen) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=screen.width,
            height=screen.height,
            deviceScaleFactor=1,
            mobile=screen.width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if screen.dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def reset(self) -> None:
        """Leaves the page, which may have gone on asking for what is not there any more."""
        self.open("about:blank")
        self.wait_for("document.URL === 'about:blank'")
        self.complaints.clear()

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression, in the page."""
        answer = self.call(
            "Runtime.evaluate",
            expression=script,
            returnByValue=True,
            allowUnsafeEvalBlockedByCSP=False,
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """Waits until an expression is true, and returns its value."""
        give_up_at = time.monotonic() + LIMIT
        while not (value := self.evaluate(script)):
            assert time.monotonic() < give_up_at, f"never came true: {script}"
            time.sleep(LOOK_AGAIN)
        return value

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Writes what is to be seen as a PNG file: on the screen, or of the whole page."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))


def executable() -> str | None:
    """Where the browser is, if there is one."""
    return next((path for name in EXECUTABLES if (path := shutil.which(name))), None)


@contextmanager
def browser(path: str) -> Iterator[Tab]:
    """Runs a browser that has one empty tab, and nothing of any other run."""
    # It may still write there while it ends.
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        subprocess.Popen(
            [path, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        try:
            with connect(_tab_url(process), max_size=LARGEST_MESSAGE) as connection:
                yield Tab(connection)
        finally:
            process.kill()


def _tab_url(process: subprocess.Popen[str]) -> str:
    """Where the first tab is spoken to; the browser tells on standard error where it is itself."""
    assert process.stderr is not None
    for line in process.stderr:
        _, found, url = line.partition("DevTools listening on ")
        if found:
            return _first_tab(url.strip())
    raise AssertionError(f"the browser has ended with exit code {process.wait()}")


def _first_tab(browser_url: str) -> str:
    with connect(browser_url) as connection:
        connection.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
        targets = json.loads(connection.recv(LIMIT))["result"]["targetInfos"]
    tab = next(target["targetId"] for target in targets if target["type"] == "page")
    return f"{browser_url.partition('/devtools/')[0]}/devtools/page/{tab}"
