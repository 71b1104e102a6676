"""Where settings come from: flags first, then the environment, then ``.env`` here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple, TypeAlias

import typer

from ensync.cli.failures import WRONG_USE, CommandError

__all__ = [
    "ADMIN_URL",
    "APP_KEY",
    "SECRET_KEY",
    "URL",
    "AppKeyOption",
    "Found",
    "SecretKeyOption",
    "Settings",
    "UrlOption",
]

URL = "ENSYNC_URL"
APP_KEY = "ENSYNC_APP_KEY"
SECRET_KEY = "ENSYNC_SECRET_KEY"  # noqa: S105 - the name of a variable
ADMIN_URL = "ENSYNC_ADMIN_URL"

_FLAGS = {URL: "--url", APP_KEY: "--app-key", SECRET_KEY: "--secret-key", ADMIN_URL: "--admin-url"}
_PREFIX = "ENSYNC_"

UrlOption: TypeAlias = Annotated[
    str | None, typer.Option("--url", help=f"Where the engine is. Else ${URL}.")
]
AppKeyOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--app-key", help=f"The app's key. Better ${APP_KEY}: others can read your flags."
    ),
]
SecretKeyOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--secret-key", help=f"The app's secret key. Better ${SECRET_KEY}: others can read flags."
    ),
]


class Found(NamedTuple):
    """A setting, and where it was found."""

    value: str
    source: str

    def __repr__(self) -> str:
        return f"Found(source={self.source!r})"


class Settings:
    """The settings of one run of the command.

    Args:
        flags: What the command line says, by the variable that it stands for.
        environ: The environment.
        directory: Where to look for ``.env``.
    """

    def __init__(
        self,
        flags: Mapping[str, str | None],
        environ: Mapping[str, str] = os.environ,
        directory: Path = Path(),
    ) -> None:
        self._flags = flags
        self._environ = environ
        self._dotenv = read_dotenv(directory / ".env")

    def find(self, variable: str) -> Found | None:
        """A setting, if it is given anywhere. An empty one counts as not given."""
        flag = self._flags.get(variable)
        if flag is not None:
            return Found(flag, f"the flag {_FLAGS[variable]}")
        if self._environ.get(variable):
            return Found(self._environ[variable], "the environment")
        if self._dotenv.get(variable):
            return Found(self._dotenv[variable], ".env")
        return None

    def name_of(self, variable: str) -> str:
        """How to call a setting to whoever gave it: by its flag, or by its variable."""
        given = self._flags.get(variable) is not None
        return _FLAGS[variable] if given else variable

    def get(self, variable: str) -> str | None:
        """The value of a setting, if it is given anywhere."""
        found = self.find(variable)
        return None if found is None else found.value

    def need(self, variable: str) -> str:
        """The value of a setting.

        Raises:
            CommandError: It is not given.
        """
        found = self.find(variable)
        if found is None:
            raise CommandError(missing(variable), WRONG_USE)
        return found.value


def missing(variable: str) -> str:
    """What to tell the user about a setting that is not given."""
    return (
        f"{variable} is missing: give {_FLAGS[variable]}, or set it in the environment "
        "or in a .env file here"
    )


def read_dotenv(path: Path) -> dict[str, str]:
    """The settings of ensync in a ``.env`` file; none when there is no such file.

    Raises:
        CommandError: A line of it can't be understood.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError as error:
        raise CommandError(f"{path} is not UTF-8 text", WRONG_USE) from error
    except OSError as error:
        raise CommandError(f"{path} can't be read: {error.strerror}", WRONG_USE) from error
    variables: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if not name.strip().startswith(_PREFIX):
            continue
        if not equals:
            raise CommandError(f"{path}, line {number}: expected NAME=value", WRONG_USE)
        variables[name.strip()] = _unquoted(value.strip())
    return variables


def _unquoted(value: str) -> str:
    for quote in ('"', "'"):
        if len(value) > 1 and value[0] == quote and quote in value[1:]:
            return value[1 : value.index(quote, 1)]
    return value.partition(" #")[0].rstrip()
