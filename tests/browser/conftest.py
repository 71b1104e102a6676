"""The browser that all these tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.browser.chromium import EXECUTABLES, Tab, browser, executable


@pytest.fixture(scope="session")
def tab() -> Iterator[Tab]:
    path = executable()
    if path is None:
        missing = f"there is no browser: none of {', '.join(EXECUTABLES)} is on the path"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with browser(path) as opened:
        yield opened
