"""Who may ask over HTTP: whoever knows the token, which is the first part of the path."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from http import HTTPStatus
from urllib.parse import urlsplit

from ensync.server.http import HttpError, HttpRequest

__all__ = ["Gate"]


class Gate:
    """Lets in those who have the link that was printed.

    Args:
        host: What is listened on. It is accepted as the name that a request is for. None: any
            name is, as with TLS, where the browser has compared it with the certificate.
        what_to_do: Advice to whoever has no token, or a wrong one.

    Attributes:
        token: What has to be known. It is a secret, and new at every start.
    """

    def __init__(self, host: str | None, what_to_do: str) -> None:
        self.token = secrets.token_urlsafe(24)
        self._host = host
        self._what_to_do = what_to_do

    def admit(self, request: HttpRequest) -> list[str]:
        """Checks a request.

        Returns:
            The parts of its path behind the token. Without a slash behind that there are none.

        Raises:
            HttpError: It is not let in.
        """
        if self._host is not None:
            _check_host(request.headers.get("host", ""), self._host)
        token, *rest = request.path.partition("?")[0].removeprefix("/").split("/")
        if not token:
            raise HttpError(HTTPStatus.FORBIDDEN, f"the token is missing: {self._what_to_do}")
        # Compared in constant time, so that it can't be found out letter by letter.
        if not hmac.compare_digest(token.encode(), self.token.encode()):
            raise HttpError(HTTPStatus.FORBIDDEN, f"wrong token: {self._what_to_do}")
        return rest


def _check_host(header: str, host: str) -> None:
    # A name that somebody else has pointed here would make a page of theirs one of our
    # own to the browser. With an address nobody can do that.
    try:
        name = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        name = ""
    if name not in ("localhost", host.lower()) and not _is_address(name):
        raise HttpError(
            HTTPStatus.FORBIDDEN, "the Host header must be an address, or the engine's host"
        )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
