"""Generates the message classes of proto/ensync.proto into the folder given."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROTO = Path(__file__).resolve().parent.parent / "proto"


def generate(target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    # protoc finds its plug-in on the path; it is installed beside this interpreter.
    search_path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROTO}"),
        f"--python_betterproto2_out={target.resolve()}",
        # Streams are opened by the transport itself; it needs the messages alone.
        "--python_betterproto2_opt=client_generation=none",
        "ensync.proto",
    ]
    # The plug-in formats by the settings of its working folder: these are to be nobody's.
    with tempfile.TemporaryDirectory() as nowhere:
        subprocess.run(command, check=True, cwd=nowhere, env={**os.environ, "PATH": search_path})


if __name__ == "__main__":
    generate(Path(sys.argv[1]))
