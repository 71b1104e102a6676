"""What a run was made on, to be told with its numbers."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path

__all__ = ["describe_machine"]

PACKAGES = (
    "anyio",
    "grpclib",
    "betterproto2",
    "pynacl",
    "pybase64",
    "websockets",
    "trio",
    "uvloop",
)


def describe_machine() -> dict[str, str]:
    """Processor, system, Python and packages, each as text."""
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": ", ".join(_versions(PACKAGES)),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _versions(packages: Sequence[str]) -> list[str]:
    found: list[str] = []
    for package in packages:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
