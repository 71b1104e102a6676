"""How far bytes have come, by the system's account and without one."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest

from ensync.transports.base import Progress
from ensync.transports.socket_progress import SocketProgress

SIZE = 8 * 1024 * 1024


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with near, far:
        near.setblocking(False)
        yield near, far


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_what_the_system_holds_has_not_departed(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    progress = SocketProgress(near)
    begin = progress.now(3, 0, 0)
    assert (begin.received, begin.waiting) == (3, 0)
    taken = near.send(bytes(SIZE))
    before = progress.now(3, SIZE, SIZE - taken)
    assert before.waiting > SIZE - taken
    left = taken
    while left:
        left -= len(far.recv(left))
    after = progress.now(3, SIZE, SIZE - taken)
    assert after.departed - before.departed == before.waiting - after.waiting > 0


@pytest.mark.parametrize("closed", [True, False])
def test_without_an_account_what_the_system_has_taken_has_departed(
    pair: tuple[socket.socket, socket.socket], closed: bool
) -> None:
    pair[0].close()
    progress = SocketProgress(pair[0] if closed else None)
    assert progress.now(1, 100, 40) == Progress(1, 60, 40)
