"""An engine that `ensync serve` runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.cli.served import Served, served


@pytest.fixture(scope="module")
def engine() -> Iterator[Served]:
    with served() as running:
        yield running
