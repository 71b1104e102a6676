"""A virtual environment for each package that others wrote.

They can't live in the environment of the tests: one of them is imported as
``ensync`` too, and two versions of another have the same name. An environment is
made at first use, in ``.interop`` below the checkout or in the directory that
ENSYNC_INTEROP_CACHE names, and is used again until its requirements change.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["CHECKOUT", "REQUIREMENTS", "EnvironmentBuildError", "python_with"]

REQUIREMENTS = ("ensync-sdk==0.3.3", "ensync-sdk==0.4.4", "ensync-sdk-ws==0.4.3")

CHECKOUT = Path(__file__).resolve().parents[2]

_CONSTRAINTS = Path(__file__).with_name("constraints.txt")
_BUILD_TIMEOUT = 300.0  # seconds for each command: a slow package index is not a failure


class EnvironmentBuildError(Exception):
    """A package could not be installed, so nothing is known about how it gets on with us."""


@functools.cache
def python_with(requirement: str) -> Path:
    """Returns the interpreter of an environment that has a package, making it if need be.

    Args:
        requirement: One of REQUIREMENTS.

    Raises:
        EnvironmentBuildError: The package can't be installed.
    """
    home = _cache() / _environment_name(requirement)
    python = home / "bin" / "python"
    if python.exists():
        return python
    # Also there when an interpreter was uninstalled and left dead links behind.
    shutil.rmtree(home, ignore_errors=True)
    _build(home, requirement)
    return python


def _cache() -> Path:
    cache = Path(os.environ.get("ENSYNC_INTEROP_CACHE") or CHECKOUT / ".interop")
    cache.mkdir(parents=True, exist_ok=True)
    cache.joinpath(".gitignore").write_text("*\n")
    return cache


def _environment_name(requirement: str) -> str:
    digest = hashlib.sha256(_CONSTRAINTS.read_bytes()).hexdigest()[:8]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return f"{requirement.replace('==', '-')}-py{version}-{digest}"


def _build(home: Path, requirement: str) -> None:
    # Made aside and renamed when complete, so that an interrupted build is never
    # taken for an environment, and two test runs can't spoil each other's.
    aside = Path(tempfile.mkdtemp(prefix="unfinished-", dir=home.parent))
    try:
        # With the pip that is here: to give each environment one takes longer than all else.
        _run(sys.executable, "-m", "venv", "--without-pip", str(aside))
        _run(sys.executable, *_pip_install(aside / "bin" / "python", requirement))
        _rename_unless_there(aside, home)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _pip_install(python: Path, requirement: str) -> list[str]:
    pip = ["-m", "pip", "--python", str(python)]
    quietly = ["--quiet", "--no-input", "--disable-pip-version-check"]
    return [*pip, "install", *quietly, "--constraint", str(_CONSTRAINTS), requirement]


def _rename_unless_there(aside: Path, home: Path) -> None:
    try:
        aside.rename(home)
    except OSError:
        if not home.exists():
            raise


def _run(*command: str) -> None:
    # Inherited settings of Python would make the new environment see the tests' packages.
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    try:
        subprocess.run(
            command,
            env=environment,
            check=True,
            timeout=_BUILD_TIMEOUT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise EnvironmentBuildError(f"{error}\n{error.output}") from error
