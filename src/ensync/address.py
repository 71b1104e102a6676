"""From a URL to where and how to connect (pure; PROTOCOL 1)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from ensync.errors import EnSyncValidationError

__all__ = ["Address", "TransportName", "is_loopback", "parse_address"]

TransportName: TypeAlias = Literal["grpc", "websocket"]

ENDPOINT = "/message"
LOOPBACK_GRPC_PORT = 50051
ACCEPTED = (
    "accepted are host, host:port, grpc:// and grpcs:// (gRPC),"
    " ws://, wss://, http:// and https:// (WebSocket)"
)


class _Scheme(NamedTuple):
    transport: TransportName
    tls: bool
    port: int


SCHEMES: Mapping[str, _Scheme] = {
    "grpcs": _Scheme("grpc", tls=True, port=443),
    "grpc": _Scheme("grpc", tls=False, port=LOOPBACK_GRPC_PORT),
    "wss": _Scheme("websocket", tls=True, port=443),
    "https": _Scheme("websocket", tls=True, port=443),
    "ws": _Scheme("websocket", tls=False, port=80),
    "http": _Scheme("websocket", tls=False, port=80),
}

AUTHORITY = re.compile(
    r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[^:@\[\]]+))(?::(?P<port>[0-9]{1,5}))?"
)
# One label of a DNS name; an underscore is common in names of containers.
LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
MAX_NAME_LENGTH = 253
MAX_PORT = 65535
IPV4_LOOPBACK = ipaddress.IPv4Network("127.0.0.0/8")
IPV6_LOOPBACK = ipaddress.IPv6Address("::1")


@dataclass(frozen=True, slots=True)
class Address:
    """Where and how to connect.

    Attributes:
        host: A DNS name in lower case, or an IP address without brackets.
        port: From 1 to 65535.
        transport: ``"grpc"`` or ``"websocket"``.
        tls: Whether the connection is encrypted.
        path: The WebSocket endpoint's path; empty for gRPC.
    """

    host: str
    port: int
    transport: TransportName
    tls: bool
    path: str

    @property
    def authority(self) -> str:
        """Host and port as in a URL or a Host header, with brackets around IPv6."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The whole address in one canonical form."""
        if self.transport == "grpc":
            scheme = "grpcs" if self.tls else "grpc"
        else:
            scheme = "wss" if self.tls else "ws"
        return f"{scheme}://{self.authority}{self.path}"


def parse_address(
    url: str, *, disable_tls: bool = False, default_transport: TransportName = "grpc"
) -> Address:
    """Reads a URL, or a bare host with or without a port.

    Without a scheme, ``default_transport="grpc"`` means TLS unless the host is
    loopback, and ``"websocket"`` means ``wss://``. Loopback is decided by parsing the
    host: ``localhost``, 127.0.0.0/8 or ::1.

    Args:
        url: What the user gave.
        disable_tls: Connect in plain text, whatever the scheme says.
        default_transport: What a bare host means.

    Raises:
        EnSyncValidationError: It can't be read; the message says what is accepted.
    """
    scheme_name, rest = _split(url)
    authority, _, path = rest.partition("/")
    host, port = _host_and_port(url, authority)
    scheme = _scheme(url, scheme_name, host, default_transport)
    return Address(
        host=host,
        port=scheme.port if port is None else port,
        transport=scheme.transport,
        tls=scheme.tls and not disable_tls,
        path=_path(url, path, scheme.transport),
    )


def is_loopback(host: str) -> bool:
    """Whether a host, as in Address, is this machine by its very name."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    # Spelt out, since the meaning of is_loopback differs between Python versions.
    if isinstance(address, ipaddress.IPv4Address):
        return address in IPV4_LOOPBACK
    return address == IPV6_LOOPBACK


def _split(url: object) -> tuple[str, str]:
    if not isinstance(url, str):
        raise EnSyncValidationError(f"url must be a str, not {type(url).__name__}")
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise _refused(url, "must be printable ASCII without blanks (write a host in punycode)")
    if "?" in url or "#" in url:
        raise _refused(url, "must have no query and no fragment")
    scheme, separator, rest = url.partition("://")
    return (scheme.lower(), rest) if separator else ("", url)


def _host_and_port(url: str, authority: str) -> tuple[str, int | None]:
    if "@" in authority:
        raise _refused(url, "must not hold a user or a password")
    match = AUTHORITY.fullmatch(authority)
    if match is None:
        raise _refused(url, "has no host[:port] that can be read (IPv6 stands in brackets)")
    host = _host(url, match)
    return host, None if match["port"] is None else _port(url, match["port"])


def _host(url: str, match: re.Match[str]) -> str:
    name: str = (match["name"] or "").lower()
    try:
        if not name:
            return str(ipaddress.IPv6Address(match["ipv6"]))
        if name.rpartition(".")[2].isdigit():  # no top-level domain is a number
            return str(ipaddress.IPv4Address(name))
    except ValueError as error:
        raise _refused(url, "has an IP address that can't be read") from error
    if len(name) > MAX_NAME_LENGTH or not all(map(_is_label, name.split("."))):
        raise _refused(url, "has a host that is not a valid name")
    return name


def _is_label(label: str) -> bool:
    if LABEL.fullmatch(label) is None:
        return False
    if not label.startswith("xn--"):
        return True
    try:
        label.encode("ascii").decode("idna")
    except UnicodeError:
        return False
    return True


def _port(url: str, digits: str) -> int:
    port = int(digits)
    if not 1 <= port <= MAX_PORT:
        raise _refused(url, f"must have a port from 1 to {MAX_PORT}")
    return port


def _scheme(url: str, name: str, host: str, default_transport: TransportName) -> _Scheme:
    if name in SCHEMES:
        return SCHEMES[name]
    if name or "://" in url:
        raise _refused(url, "has another scheme")
    if default_transport == "websocket":
        return SCHEMES["wss"]
    return SCHEMES["grpc" if is_loopback(host) else "grpcs"]


def _path(url: str, path: str, transport: TransportName) -> str:
    if transport == "websocket":
        below = path.strip("/")
        return f"/{below}{ENDPOINT}" if below else ENDPOINT
    if path:
        raise _refused(url, "must have no path, since gRPC has none")
    return ""


def _refused(url: str, problem: str) -> EnSyncValidationError:
    # A password or a token in it must not end up in a log.
    shown = "the URL" if any(mark in url for mark in "@?#") else f"the URL {url!r}"
    return EnSyncValidationError(f"{shown} {problem}; {ACCEPTED}")
