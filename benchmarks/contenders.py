"""Who is measured, and how their programs are started."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal, TypeAlias

from benchmarks.processes import TalkingProcess
from tests.interop.environments import python_with

__all__ = ["BASELINE", "CONTENDERS", "Contender", "EngineKind", "start_contender"]

EngineKind: TypeAlias = Literal["neutral", "limited", "local", "nats"]


@dataclass(frozen=True, slots=True)
class Contender:
    """One client, in one way of using it.

    Attributes:
        key: Its name in results.
        title: Its name in tables.
        arguments: The module of its program, and what it is given.
        requirement: The package it is, in an environment of its own; None for ours.
        websocket: Whether it connects over WebSocket.
        engine: What it needs to talk to, if not what the others do.
    """

    key: str
    title: str
    arguments: tuple[str, ...]
    requirement: str | None = None
    websocket: bool = False
    engine: EngineKind | None = None


BASELINE = "sdk-0.4.4"


def _ours_compressed(loop: str) -> Contender:
    ours = _ours(loop)
    arguments = (*ours.arguments, "--compression", "deflate")
    return Contender(f"{loop}-compressed", f"{ours.title}, compressed", arguments)


def _ours(loop: str, http2: str = "auto", *, websocket: bool = False) -> Contender:
    way = "-websocket" if websocket else "" if http2 == "auto" else f"-{http2}"
    title = ", WebSocket" if websocket else "" if http2 == "auto" else f', http2="{http2}"'
    arguments = ("benchmarks.clients.ours", "--loop", loop, "--http2", http2)
    return Contender(f"{loop}{way}", f"ensync on {loop}{title}", arguments, websocket=websocket)


def _official(version: str) -> Contender:
    arguments = ("benchmarks.clients.official", "--sdk", version)
    title = f"ensync-sdk {version}"
    return Contender(f"sdk-{version}", title, arguments, f"ensync-sdk=={version}")


CONTENDERS = {
    contender.key: contender
    for contender in (
        _official("0.4.4"),
        _official("0.3.3"),
        _ours("asyncio"),
        _ours("uvloop"),
        _ours("trio"),
        _ours_compressed("asyncio"),
        _ours("asyncio", "h2"),
        _ours("trio", "h2"),
        _ours("asyncio", "grpclib"),
        _ours("trio", "grpclib"),
        _ours("asyncio", websocket=True),
        _ours("uvloop", websocket=True),
        _ours("trio", websocket=True),
        Contender(
            "nats",
            "nats-py, JetStream (context)",
            ("benchmarks.clients.nats_client",),
            "nats-py==2.16.0",
            engine="nats",
        ),
    )
}


def start_contender(contender: Contender, core: int | None) -> TalkingProcess:
    """Starts its program.

    Raises:
        tests.interop.environments.EnvironmentBuildError: It can't be installed.
    """
    ours = contender.requirement is None
    python = sys.executable if contender.requirement is None else python_with(contender.requirement)
    return TalkingProcess([str(python), "-m", *contender.arguments], core=core, with_source=ours)
