"""What a soak says: one line while it runs, and a table at its end."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from tests.faults.soak_census import Census
from tests.faults.soak_ledger import Violation

__all__ = ["Progress", "Report", "table"]

ALL_KINDS = (
    "lost",
    "handed after settled",
    "doubled",
    "invented",
    "rejected and stored",
    "garbled",
)


@dataclass
class Report:
    """All figures of a soak.

    Attributes:
        plan: What was to be done: the seed, and what else it takes to do it again.
    """

    plan: str
    seconds: float = 0.0
    events: dict[str, int] = field(default_factory=dict[str, int])
    faults: dict[str, int] = field(default_factory=dict[str, int])
    errors: dict[str, int] = field(default_factory=dict[str, int])
    error_texts: dict[str, str] = field(default_factory=dict[str, str])
    logged: dict[str, int] = field(default_factory=dict[str, int])
    reconnects: int = 0
    restarts: int = 0
    recovery: float = 0.0
    slowest_leave: float = 0.0
    start: Census | None = None
    warm: Census | None = None
    end: Census | None = None
    violations: dict[str, int] = field(default_factory=dict[str, int])
    examples: list[Violation] = field(default_factory=list[Violation])

    @property
    def is_good(self) -> bool:
        """Whether every promise was kept."""
        return not self.violations

    def to_json(self) -> str:
        """All of it, for programs."""
        return json.dumps(asdict(self), indent=2)


def table(report: Report) -> str:
    """All of it, for people."""
    lines = [
        report.plan,
        f"{report.seconds:.0f} s",
        *_rows("events", report.events),
        *_rows(f"faults: {sum(report.faults.values())}", report.faults),
        *_rows("errors that programs were told", report.errors),
        *(f"  {kind}: {text}" for kind, text in report.error_texts.items()),
        *_rows("logged", report.logged),
        *_rows(
            "recovery",
            {
                "reconnects": report.reconnects,
                "engine restarts": report.restarts,
                "all clear after (s)": round(report.recovery, 2),
                "slowest leave (s)": round(report.slowest_leave, 2),
            },
        ),
        *_censuses(report),
        *_rows("violations", dict.fromkeys(ALL_KINDS, 0) | report.violations),
        *(f"  {kind}: {text}" for kind, text in report.examples),
        "PASSED" if report.is_good else "FAILED",
    ]
    return "\n".join(lines)


def _rows(title: str, counts: Mapping[str, float]) -> list[str]:
    return ["", title, *(f"  {name:<44} {counts[name]:>12,}" for name in counts)]


def _censuses(report: Report) -> list[str]:
    lines = ["", f"{'held':<20} {'start':>12} {'warm':>12} {'end':>12}"]
    if report.start is None or report.warm is None or report.end is None:
        return lines
    for name in Census._fields:
        figures = [getattr(census, name) for census in (report.start, report.warm, report.end)]
        lines.append(f"  {name:<18} " + " ".join(f"{figure:>12,}" for figure in figures))
    return lines


class Progress:
    """One line, rewritten; where that can't be, a line from time to time."""

    def __init__(self) -> None:
        self._rewrites = sys.stderr.isatty()
        self._shown = 0

    @property
    def interval(self) -> float:
        """Seconds between two lines."""
        return 1.0 if self._rewrites else 15.0

    def show(self, passed: float, total: float, counts: Mapping[str, int]) -> None:
        """Shows where we are."""
        figures = ", ".join(f"{name} {number:,}" for name, number in counts.items())
        line = f"{_clock(passed)}/{_clock(total)}  {figures}"
        end = "\r" if self._rewrites else "\n"
        print(line.ljust(self._shown), end=end, file=sys.stderr, flush=True)
        self._shown = len(line)

    def done(self) -> None:
        """Leaves the line."""
        if self._rewrites and self._shown:
            print(file=sys.stderr)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
