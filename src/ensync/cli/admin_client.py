"""Asks the admin endpoint of an engine that is running."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ensync.cli.failures import FAILED, UNREACHABLE, WRONG_USE, CommandError
from ensync.cli.settings import ADMIN_URL, Settings

__all__ = [
    "AdminClient",
    "NoEngineError",
    "admin_file",
    "announced",
    "engine_at",
    "running_engine",
]

_TIMEOUT = 10.0  # seconds
# Loopback is never behind a proxy, whatever the environment says.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
# What other servers say to a path that means nothing to them, and a newer engine to an old token.
_NOT_OURS = (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)


class NoEngineError(CommandError):
    """At an admin URL there is no engine, or not the one that the URL is from."""


class AdminClient:
    """An engine, as its admin endpoint shows it.

    Args:
        url: Where the endpoint is, with its token.
    """

    def __init__(self, url: str) -> None:
        if not url.startswith("http://127.0.0.1:"):
            raise NoEngineError("the admin URL is not one that ensync serve has printed", WRONG_USE)
        self._url = url

    def ask(self, method: str, what: str, app_id: str = "", body: object = None) -> Any:
        """Makes one request and returns the answer.

        Raises:
            NoEngineError: The engine is not there.
            CommandError: It refuses.
        """
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            f"{self._url}/{what}/{quote(app_id, safe='')}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
        )
        try:
            with _OPENER.open(request, timeout=_TIMEOUT) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(error) from error
        except (OSError, HTTPException) as error:
            raise NoEngineError(
                "no engine answers at the admin URL: is ensync serve still running?", UNREACHABLE
            ) from error
        except ValueError as error:
            raise NoEngineError(
                "what answers at the admin URL is no engine: is ensync serve still running?",
                UNREACHABLE,
            ) from error


def _refusal(error: urllib.error.HTTPError) -> CommandError:
    if error.code in _NOT_OURS:
        return NoEngineError(_reason(error))
    # What is no use to the engine is no use here: as if the engine were in this process.
    code = WRONG_USE if error.code == HTTPStatus.BAD_REQUEST else FAILED
    return CommandError(_reason(error), code)


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"])
    except (ValueError, KeyError, TypeError):
        return f"the admin endpoint answered {error.code}"


def admin_file(data: Path) -> Path:
    """Where an engine that keeps its data in a file leaves its admin URL."""
    return data.with_name(f"{data.name}.admin")


@contextmanager
def announced(data: Path | None, url: str) -> Generator[None]:
    """Leaves the admin URL beside the data, readable by this user only."""
    if data is None:
        yield
        return
    path = admin_file(data)
    _write_whole(path, url)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _write_whole(path: Path, text: str) -> None:
    # Whoever reads it at this moment must not find it empty.
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise CommandError(f"{path} can't be written: {error.strerror}") from error


def running_engine(data: Path) -> AdminClient | None:
    """The engine that is running on a data file, if there is one."""
    try:
        client = AdminClient(admin_file(data).read_text().strip())
        client.ask("GET", "apps")
    except (FileNotFoundError, UnicodeDecodeError, NoEngineError):
        # A killed engine leaves its file behind, and its port to any other server.
        return None
    return client


def engine_at(admin_url: str | None) -> AdminClient:
    """The engine at an admin URL: the one given, or that of the settings.

    Raises:
        CommandError: There is none.
    """
    url = Settings({ADMIN_URL: admin_url}).get(ADMIN_URL)
    if url is None:
        raise CommandError(
            "which engine? Give --data FILE, or --admin-url or ENSYNC_ADMIN_URL of a running one",
            WRONG_USE,
        )
    return AdminClient(url)
