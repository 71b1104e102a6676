"""The programs of docs/testing-faults.md, as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.testing.echo import within

pytestmark = pytest.mark.anyio

GUIDE = Path(__file__).parents[3] / "docs" / "testing-faults.md"
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
RUN = "\n\nanyio.run(main)\n"


def titles() -> list[str]:
    text = GUIDE.read_text()
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    return [section.splitlines()[0] for section in sections if "```python" in section]


@pytest.mark.parametrize("program", PROGRAMS, ids=titles())
async def test_the_program_runs(program: str) -> None:
    assert program.endswith(RUN)
    names: dict[str, Any] = {}
    # The test runs in a loop of its backend already, in place of the program's last line.
    exec(compile(program.removesuffix(RUN), str(GUIDE), "exec"), names)
    with within():
        await names["main"]()


def test_no_program_is_missed() -> None:
    assert len(PROGRAMS) == GUIDE.read_text().count("```python") == len(titles())
