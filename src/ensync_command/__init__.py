"""Where the ``ensync`` command begins: before anything that takes time to import.

It is not inside ``ensync``, since that alone imports for half a second.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

__all__ = ["interrupts_raised", "main"]

_INTERRUPTED = 130


def main() -> None:
    """Runs the command with the arguments of this process; its end is the process's."""
    # Whoever started this may have it ignore Ctrl-C, as a shell does with `command &`.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    from ensync.cli import main as run_command

    run_command()


@contextmanager
def interrupts_raised() -> Iterator[None]:
    """Lets Ctrl-C raise KeyboardInterrupt, for as long as there is somebody to catch it."""
    if signal.getsignal(signal.SIGINT) is not _leave:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, _leave)


def _leave(*_: object) -> NoReturn:
    # Raised in the middle of an import, an exception would be shown with its traceback.
    os._exit(_INTERRUPTED)
