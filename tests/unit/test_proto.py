"""The committed message classes are what the compiler makes of proto/ensync.proto."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "src" / "ensync" / "proto"


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_generated_code_is_up_to_date(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "generate_proto.py"
    subprocess.run([sys.executable, script, tmp_path], check=True, capture_output=True)
    assert _files(tmp_path) == _files(COMMITTED), "run: make proto"


# Which purpose has which method in each generation (PROTOCOL 3).
METHODS = {
    "PublishEvent": "PublishMessage",
    "AcknowledgeEvent": "AcknowledgeMessage",
    "DeferEvent": "DeferMessage",
    "DiscardEvent": "DiscardMessage",
    "ReplayEvent": "ReplayMessage",
    "PauseEvents": "PauseMessages",
    "ContinueEvents": "ContinueMessages",
}


def _declared_methods() -> dict[str, tuple[str, str]]:
    text = (ROOT / "proto" / "ensync.proto").read_text()
    pattern = r"rpc (\w+)\((\w+)\) returns \(((?:stream )?\w+)\)"
    return {name: (request, reply) for name, request, reply in re.findall(pattern, text)}


@pytest.mark.parametrize(("event_method", "message_method"), METHODS.items())
def test_both_generations_have_the_same_messages(event_method: str, message_method: str) -> None:
    methods = _declared_methods()
    assert methods[event_method] == methods[message_method]


def test_there_are_no_other_methods() -> None:
    shared = {"Connect", "Heartbeat", "Subscribe", "Unsubscribe"}
    assert set(_declared_methods()) == shared | set(METHODS) | set(METHODS.values())
