"""Disks that a test can fill, and make room on, while `ensync serve` keeps its data there."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["Disk", "limited_files", "small_disk"]

DATA = "events.db"
BALLAST = "ballast"

# A process of its own may have a disk of its own, even if its user may mount none.
SEPARATE = ("unshare", "--user", "--map-root-user", "--mount")
ENTER = ("nsenter", "--user", "--mount", "--preserve-credentials")
# It is there for as long as somebody holds its standard input open, however a test ends.
MOUNT_AND_STAY = 'mount -t tmpfs -o size=2m none "$0" && echo mounted && exec cat'


class Disk(ABC):
    """Where an engine keeps its data.

    Attributes:
        data: The data file, as the engine sees it.
        launcher: What has to start the engine.
        launcher_when_full: What has to start it to have it find the disk full.
        told: What the engine tells clients while the disk is full.
    """

    data: Path
    launcher: Sequence[str] = ()
    launcher_when_full: Sequence[str] = ()
    told: str

    @abstractmethod
    def fill(self, engine: int, room: int = 0) -> None:
        """Leaves room for so many bytes to the engine with this process id."""

    @abstractmethod
    def make_room(self, engine: int | None = None) -> None:
        """Leaves enough room to the engine, if one is running, and to those after it."""


class _LimitedFiles(Disk):
    launcher_when_full = ("/bin/sh", "-c", 'ulimit -f 0; exec "$0" "$@"')
    told = "the engine can't use its data file: nothing was changed"

    def __init__(self, directory: Path) -> None:
        self.data = directory / DATA

    def fill(self, engine: int, room: int = 0) -> None:
        largest = max(file.stat().st_size for file in self.data.parent.iterdir())
        _, hard = resource.prlimit(engine, resource.RLIMIT_FSIZE)
        resource.prlimit(engine, resource.RLIMIT_FSIZE, (largest + room, hard))

    def make_room(self, engine: int | None = None) -> None:
        if engine is None:  # the limit has ended with its process
            return
        _, hard = resource.prlimit(engine, resource.RLIMIT_FSIZE)
        resource.prlimit(engine, resource.RLIMIT_FSIZE, (hard, hard))


class _SmallDisk(Disk):
    told = "the engine's disk is full: nothing was changed"

    def __init__(self, directory: Path, holder: int) -> None:
        self.data = directory / DATA
        self.launcher = self.launcher_when_full = [*ENTER, "--target", str(holder)]
        self._seen_from_here = Path(f"/proc/{holder}/root{directory}")
        self._ballast = self._seen_from_here / BALLAST

    def fill(self, engine: int, room: int = 0) -> None:
        self.make_room()
        disk = os.statvfs(self._seen_from_here)
        self._ballast.write_bytes(bytes(disk.f_bavail * disk.f_frsize - room))

    def make_room(self, engine: int | None = None) -> None:
        self._ballast.unlink(missing_ok=True)


@contextmanager
def limited_files(directory: Path) -> Iterator[Disk]:
    """No file of the engine can grow beyond a limit. Any user may set one."""
    yield _LimitedFiles(directory)


@contextmanager
def small_disk(directory: Path) -> Iterator[Disk]:
    """A file system that gets really full, and that only those see whom it launches."""
    if shutil.which(SEPARATE[0]) is None:
        pytest.skip(f"there is no {SEPARATE[0]}")
    with subprocess.Popen(
        [*SEPARATE, "/bin/sh", "-c", MOUNT_AND_STAY, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        if not holder.stdout.readline():
            pytest.skip(f"no file system can be mounted: {holder.communicate()[1].strip()}")
        yield _SmallDisk(directory, holder.pid)
