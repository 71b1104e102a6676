"""The code blocks of the documentation, and how each kind of them is run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(
    r"(?:^<!-- publish: (?P<name>\S+) (?P<count>\d+) -->\n)?"
    r"^```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """One code block.

    ``publish`` and ``events`` come from a comment before it: so many events of this name
    are published first, and the block has to settle them all.
    """

    document: str
    line: int
    language: str
    code: str
    publish: str
    events: int

    @property
    def name(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def is_program(self) -> bool:
        return "anyio.run(" in self.code and not self.is_test_module

    @property
    def is_test_module(self) -> bool:
        return "def test_" in self.code

    @property
    def commands(self) -> list[list[str]]:
        """The commands of a shell block, each in words."""
        lines = self.code.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks_of(path: Path) -> Iterator[Block]:
    text = path.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        yield Block(
            document=str(path.relative_to(ROOT)),
            line=text.count("\n", 0, match.start("code")) + 1,
            language=match["language"],
            code=match["code"],
            publish=match["name"] or "",
            events=int(match["count"] or 0),
        )


def targets_of_make() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def recipes_of_make() -> list[list[str]]:
    """The commands that make runs in its environment, in words."""
    lines = re.findall(r"^\t\$\(BIN\)/(.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return [shlex.split(line.replace("$(BIN)", ".venv/bin")) for line in lines]
