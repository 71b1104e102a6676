"""What it means that a connection could not be opened, in our own words."""

from __future__ import annotations

import socket
import ssl

from ensync.address import Address
from ensync.errors import EnSyncConnectionError, EnSyncTimeoutError

__all__ = ["network_error"]

_PLAIN_SCHEMES = {"grpc": "grpc:// instead of grpcs://", "websocket": "ws:// instead of wss://"}


def network_error(address: Address, error: OSError) -> EnSyncConnectionError:
    """Names the step that failed: the name, the connection, TLS, or the time it took.

    To be raised from the error given.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return EnSyncConnectionError(
            f"the certificate of {address.url} is not accepted: {error.verify_message}",
            code="tls_failed",
            retryable=False,
        )
    if isinstance(error, ssl.SSLError):
        return EnSyncConnectionError(
            f"no TLS with {address.url}: {error.reason or error}; if the engine there speaks "
            f"plain text, say {_PLAIN_SCHEMES[address.transport]}",
            code="tls_failed",
        )
    if isinstance(error, socket.gaierror):
        return EnSyncConnectionError(
            f"the host name {address.host!r} can't be resolved: {error.strerror}",
            code="unknown_host",
        )
    if isinstance(error, TimeoutError):
        return EnSyncTimeoutError(f"no answer from {address.url} in time", code="connect_timeout")
    return EnSyncConnectionError(
        f"no connection to {address.url}: {error.strerror or error}", code="connect_failed"
    )
