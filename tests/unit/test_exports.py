"""What ``import ensync`` gives, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files

import pytest

import ensync

CHECK_IMPORT = """
import logging
root = logging.getLogger()
before = (root.level, list(root.handlers), logging.root.manager.disable)
import ensync
assert (root.level, list(root.handlers), logging.root.manager.disable) == before
ours = logging.getLogger("ensync")
assert (ours.level, ours.handlers, ours.propagate) == (logging.NOTSET, [], True)
import sys
for optional in ("trio", "trio_asyncio", "typer", "rich"):
    assert optional not in sys.modules, optional
"""


def test_import_changes_no_logging_state_and_needs_no_extra() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", CHECK_IMPORT], check=True, timeout=20)


def test_all_is_sorted_and_there() -> None:
    assert sorted(ensync.__all__) == ensync.__all__
    for name in ensync.__all__:
        assert hasattr(ensync, name)


@pytest.mark.parametrize("name", [name for name in ensync.__all__ if not name.startswith("_")])
def test_the_public_path_is_shown(name: str) -> None:
    assert getattr(ensync, name).__module__ == "ensync"


def test_types_are_announced() -> None:
    assert files("ensync").joinpath("py.typed").is_file()
