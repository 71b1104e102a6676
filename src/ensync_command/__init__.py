"""Where the ``ensync`` command begins: before anything that takes time to import.

It is not inside ``ensync``, since that alone imports for half a second. It needs as little
itself: an interrupt during its own imports still shows a traceback.
"""

from __future__ import annotations

import os
import signal

__all__ = ["leave", "main"]

_INTERRUPTED = 130


def main() -> None:
    """Runs the command with the arguments of this process; its end is the process's."""
    # Whoever started this may have it ignore Ctrl-C, as a shell does with `command &`.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)
    from ensync.cli import main as run_command

    run_command()


def leave(*_: object) -> None:
    """Ends the process at once, as the handler of a signal."""
    # Raised in the middle of an import, an exception would be shown with its traceback.
    os._exit(_INTERRUPTED)
