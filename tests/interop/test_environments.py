"""A package that can't be installed is a failure, and never a reason to skip."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.environments import EnvironmentBuildError, python_with

# Environments are made at first use, which is not the time of one test.
pytestmark = pytest.mark.timeout(300, func_only=True)


def test_a_package_that_cannot_be_installed_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENSYNC_INTEROP_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(EnvironmentBuildError, match=r"ensync-sdk==0\.0\.0"):
        python_with("ensync-sdk==0.0.0")
    assert [path.name for path in tmp_path.iterdir()] == [".gitignore"]


def test_an_environment_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    python = python_with("ensync-sdk==0.3.3")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    python_with.cache_clear()
    assert python_with("ensync-sdk==0.3.3") == python
