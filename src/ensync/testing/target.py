"""Where a proxy forwards to."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from ensync.errors import EnSyncValidationError

__all__ = ["Target"]


class Target(NamedTuple):
    """An address, and how it was spelt."""

    host: str
    port: int
    pattern: str
    """The URL, with ``{}`` in place of host and port."""

    @classmethod
    def parse(cls, target: str | tuple[str, int]) -> Target:
        """Reads a URL with a port, a ``"host:port"``, or a pair of both.

        Raises:
            EnSyncValidationError: There is no host or no port in it.
        """
        if isinstance(target, tuple):
            return cls(*target, "{}")
        bare = "//" not in target
        parts = urlsplit(f"//{target}" if bare else target)
        host, port = parts.hostname, _port(parts)
        if not host or port is None:
            raise EnSyncValidationError(
                f"target={target!r}: it must be a URL with host and port, or host:port"
            )
        pattern = parts._replace(netloc="{}").geturl()
        return cls(host, port, pattern.removeprefix("//") if bare else pattern)

    def url_at(self, host: str, port: int) -> str:
        """Returns the same URL with another address."""
        return self.pattern.format(f"{host}:{port}")


def _port(parts: SplitResult) -> int | None:
    try:
        return parts.port
    except ValueError:
        return None
