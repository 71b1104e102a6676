"""Settings that are checked where they are given (pure).

Durations are seconds. Whatever is wrong raises EnSyncValidationError with the
name of the argument and what is accepted, and never with a secret.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ensync.errors import EnSyncValidationError
from ensync.wire_text import check_wire_text

__all__ = [
    "Backoff",
    "Credentials",
    "Reconnect",
    "check_app_key",
    "check_choice",
    "check_count",
    "check_duration",
    "from_environment",
    "unknown_option",
    "url_from_environment",
]

# A century. More is a mistake, and would not fit into clocks.
MAX_DURATION = 100 * 366 * 24 * 60 * 60.0
MIN_APP_KEY_LENGTH = 8
MAX_APP_KEY_LENGTH = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconnect:
    """How a lost connection is sought again: exponential back-off with full jitter.

    Before attempt ``n`` (counted from 0) there is a wait of a random length
    between 0 and ``min(maximum, initial * 2**n)`` seconds.

    An attempt has failed when there is no connection, and also when there is one that
    is lost again within ``healthy_after`` seconds without having been of any use: no
    event came, and no request about one and no heartbeat was answered. So has one whose
    connection ends within that time because the engine breaks the protocol.

    Attributes:
        initial: Upper bound of the first wait, in seconds.
        maximum: Upper bound of every wait, in seconds.
        max_attempts: How many attempts in a row may fail before giving up; None
            for no end.
        healthy_after: How long, in seconds, a connection must live before the waits
            start from ``initial`` again, and before it counts as a success by itself.

    Raises:
        EnSyncValidationError: A value is not a positive finite number, or
            ``maximum`` is below ``initial``.
    """

    initial: float = 0.5
    maximum: float = 30.0
    max_attempts: int | None = 10
    healthy_after: float = 60.0

    def __post_init__(self) -> None:
        for name in ("initial", "maximum", "healthy_after"):
            value = check_duration(f"Reconnect.{name}", getattr(self, name))
            object.__setattr__(self, name, value)
        if self.max_attempts is not None:
            check_count("Reconnect.max_attempts", self.max_attempts)
        if self.maximum < self.initial:
            raise EnSyncValidationError(
                "Reconnect.maximum must not be below Reconnect.initial,"
                f" but {self.maximum} < {self.initial}"
            )


class Backoff:
    """The waits of one run of reconnect attempts.

    Args:
        policy: The bounds.
        random: Gives the jitter, from 0 (included) to 1 (excluded).
    """

    def __init__(self, policy: Reconnect, random: Callable[[], float]) -> None:
        self._policy = policy
        self._random = random
        self._attempts = 0

    @property
    def attempts(self) -> int:
        """How many waits were handed out since the last reset."""
        return self._attempts

    def next_delay(self) -> float | None:
        """The seconds to wait before the next attempt, or None to give up."""
        policy = self._policy
        if policy.max_attempts is not None and self._attempts >= policy.max_attempts:
            return None
        bound = _doubled(policy.initial, self._attempts, policy.maximum)
        self._attempts += 1
        return self._random() * bound

    def reset(self) -> None:
        """Starts over, as after a session that stayed healthy for a while."""
        self._attempts = 0


def _doubled(initial: float, times: int, maximum: float) -> float:
    try:
        return min(maximum, math.ldexp(initial, times))
    except OverflowError:  # reached only with max_attempts=None, after a thousand attempts
        return maximum


def check_duration(name: str, value: object, *, allow_zero: bool = False) -> float:
    """Checks a duration in seconds.

    Raises:
        EnSyncValidationError: It is not a number (a bool is not one), is not above zero,
            or is more than a century.
    """
    accepted = "zero or more" if allow_zero else "more than zero"
    # bool is an int to Python, but timeout=True is a mistake.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise EnSyncValidationError(
            f"{name} must be a number of seconds ({accepted}), not {_kind(value)}"
        )
    if not _is_duration(value, allow_zero):
        raise EnSyncValidationError(
            f"{name} must be finite and {accepted} seconds, and at most a century, not {value}"
        )
    return float(value)


def _is_duration(value: float, allow_zero: bool) -> bool:
    return 0 < value <= MAX_DURATION or (allow_zero and value == 0)


def check_count(name: str, value: object, minimum: int = 1) -> int:
    """Checks a whole number.

    Raises:
        EnSyncValidationError: It is not an int (a bool is not one), or is below the minimum.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise EnSyncValidationError(
            f"{name} must be a whole number ({minimum} or more), not {_kind(value)}"
        )
    if value < minimum:
        raise EnSyncValidationError(f"{name} must be {minimum} or more, not {value}")
    return value


def check_choice(name: str, value: object, accepted: Collection[str]) -> str:
    """Checks that a value is one of a few words.

    Raises:
        EnSyncValidationError: It is another; the message lists the accepted ones.
    """
    if isinstance(value, str) and value in accepted:
        return value
    words = ", ".join(repr(word) for word in accepted)
    raise EnSyncValidationError(f"{name} must be one of {words}, not {value!r}")


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__


def unknown_option(owner: str, unknown: Mapping[str, object], accepted: Iterable[str]) -> TypeError:
    """Makes the error for keywords that a function does not have; the caller raises it.

    Args:
        owner: The function or class that was called, such as ``"create_client()"``.
        unknown: The keywords that are left over. Only their names are shown.
        accepted: The keywords there are.
    """
    names = list(accepted)
    return TypeError("; ".join(_misspelt(owner, option, names) for option in unknown))


def _misspelt(owner: str, option: str, accepted: list[str]) -> str:
    nearest = difflib.get_close_matches(option.lower(), accepted, n=1)
    if nearest:
        return f"{owner} has no option {option!r}: did you mean {nearest[0]!r}?"
    return f"{owner} has no option {option!r}: it has {', '.join(sorted(accepted))}"


class Credentials(NamedTuple):
    """Where to connect and as whom. Its repr shows no key."""

    url: str
    app_key: str
    secret_key: str | None

    def __repr__(self) -> str:
        return f"Credentials(url={self.url!r})"


def from_environment(
    url: str | None,
    app_key: str | None,
    secret_key: str | None,
    environ: Mapping[str, str],
    *,
    websocket: bool = False,
) -> Credentials:
    """Fills in from the environment what was not given.

    The variables are ``ENSYNC_URL`` (``ENSYNC_WS_URL`` for the WebSocket
    engine), ``ENSYNC_APP_KEY`` and ``ENSYNC_SECRET_KEY``. An empty variable
    counts as missing. A secret key is not needed to publish, so it may be absent.

    Raises:
        EnSyncValidationError: The URL or the app key is neither given nor set, or the
            app key can't be one.
    """
    return Credentials(
        url=url_from_environment(url, environ, websocket=websocket),
        app_key=check_app_key(_given_or_set("app_key", app_key, "ENSYNC_APP_KEY", environ)),
        secret_key=secret_key
        if secret_key is not None
        else _variable(environ, "ENSYNC_SECRET_KEY"),
    )


def url_from_environment(
    url: str | None, environ: Mapping[str, str], *, websocket: bool = False
) -> str:
    """The URL given, or the one of the environment.

    Raises:
        EnSyncValidationError: Neither is there.
    """
    variable = "ENSYNC_WS_URL" if websocket else "ENSYNC_URL"
    return _given_or_set("url", url, variable, environ)


def _given_or_set(name: str, value: str | None, variable: str, environ: Mapping[str, str]) -> str:
    found = _variable(environ, variable) if value is None else value
    if found is None:
        raise EnSyncValidationError(
            f"{name} is missing: pass {name}=..., or set the environment variable {variable}"
        )
    return found


def _variable(environ: Mapping[str, str], name: str) -> str | None:
    return environ.get(name) or None


def check_app_key(text: object) -> str:
    """Checks what a client authenticates with. No message shows the key.

    Raises:
        EnSyncValidationError: It can't be an app key.
    """
    return check_wire_text("app_key", text, minimum=MIN_APP_KEY_LENGTH, maximum=MAX_APP_KEY_LENGTH)
