"""Puts a run's tables and pictures into docs/performance.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.processes import CHECKOUT
from benchmarks.showing import as_markdown
from benchmarks.tables import Table

__all__ = ["write_document"]

PAGE = CHECKOUT / "docs" / "performance.md"
PLOTS = CHECKOUT / "docs" / "plots"
BEGIN = "<!-- measured: from here on written by python -m benchmarks --docs -->"
END = "<!-- measured: to here -->"


def write_document(
    tables: Sequence[Table],
    pictures: Mapping[str, str],
    notes: Sequence[str],
    machine: Mapping[str, str],
) -> None:
    """Replaces what stands between the two marks of the page, and the pictures."""
    PLOTS.mkdir(exist_ok=True)
    for name, picture in pictures.items():
        PLOTS.joinpath(f"{name}.svg").write_text(picture)
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    measured = _measured(tables, pictures, notes, machine)
    PAGE.write_text(f"{before}{BEGIN}\n\n{measured}\n{END}{after}")


def _measured(
    tables: Sequence[Table],
    pictures: Mapping[str, str],
    notes: Sequence[str],
    machine: Mapping[str, str],
) -> str:
    about = "\n".join(f"- {name}: {text}" for name, text in machine.items())
    images = "\n\n".join(f"![{name}](plots/{name}.svg)" for name in pictures)
    shown = "\n".join(as_markdown(table) for table in tables)
    remarks = "\n".join(f"- {note}" for note in notes)
    return "\n\n".join(part for part in (about, images, shown, remarks) if part)
