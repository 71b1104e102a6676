"""The tables of the report, made from results; how they are shown is another module's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from benchmarks.contenders import CONTENDERS
from benchmarks.results import Results, Spread
from benchmarks.scenarios import Metric, Scenario

__all__ = ["Cell", "Table", "load_table", "section_tables", "wire_table"]

MISSING = "-"

Cell: TypeAlias = Callable[[Results, str, str, Metric], str]


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def section_tables(results: Results) -> list[Table]:
    """What was measured; and the ratios to the baseline, where there is one."""
    section = results.section
    notes = (section.note,) if section.note else ()
    if section.fresh:
        return [_table(results, f"{section.title}, MB", "", notes, _absolute)]
    baseline = section.baseline
    if baseline is None:
        return [
            _table(results, section.title, "times the first", notes, _relative),
            _table(results, section.title, "µs", (), _absolute),
        ]
    ratio_to = f"times as fast as {CONTENDERS[baseline].title}: median (lowest to highest)"
    return [
        _table(results, section.title, ratio_to, notes, _relative),
        _table(results, section.title, "µs", (), _absolute),
    ]


def _table(
    results: Results,
    title: str,
    what: str,
    notes: tuple[str, ...],
    cell: Cell,
) -> Table:
    columns = [
        (scenario, metric) for scenario in results.section.scenarios for metric in scenario.metrics
    ]
    return Table(
        f"{title} ({what})" if what else title,
        ("", *(_heading(scenario, metric) for scenario, metric in columns)),
        tuple(
            (
                CONTENDERS[contender].title,
                *(cell(results, scenario.key, contender, metric) for scenario, metric in columns),
            )
            for contender in results.section.contenders
        ),
        notes,
    )


def _absolute(results: Results, scenario: str, contender: str, metric: Metric) -> str:
    values = results.values(scenario, contender, metric)
    return _number(Spread.of(values).median) if values else MISSING


def _relative(results: Results, scenario: str, contender: str, metric: Metric) -> str:
    ratio = results.ratio(scenario, contender, metric)
    if ratio is None:
        return MISSING
    if ratio.low == ratio.high:
        return f"{ratio.median:.2f}"
    return f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def _number(value: float) -> str:
    return f"{value:,.1f}" if abs(value) < 100 else f"{value:,.0f}"


def _heading(scenario: Scenario, metric: Metric) -> str:
    named = metric.title and len(scenario.metrics) > 1
    return f"{scenario.title}, {metric.title}" if named else scenario.title


def load_table(all_results: Sequence[Results]) -> Table:
    """How busy the server was, at its busiest: below 1/2 it can't be what is measured."""
    rows: list[tuple[str, ...]] = []
    for results in all_results:
        for scenario in results.section.scenarios:
            load = results.server_load(scenario.key)
            if load is not None:
                contender, busy = load
                title = f"{results.section.key}: {scenario.title}"
                rows.append((title, f"{busy:.0%}", CONTENDERS[contender].title))
    return Table(
        "How busy the server was",
        ("", "CPU time / time", "with"),
        tuple(rows),
        (
            "With the client that kept it busiest, median of the rounds. "
            "websocket and backlog are measured against the local engine, all else against "
            "the neutral server, or what stands in for it.",
        ),
    )


def wire_table(counts: Mapping[str, Mapping[int, float]]) -> Table:
    """Bytes on the wire, and how many times fewer than the first contender's."""
    first = next(iter(counts.values()))
    rows = tuple(
        (
            CONTENDERS[contender].title,
            *(
                f"{count:,.0f} (1/{first[recipients] / count:.1f})"
                for recipients, count in by_recipients.items()
            ),
        )
        for contender, by_recipients in counts.items()
    )
    recipients = (f"{number} recipient{'s'[: number - 1]}" for number in first)
    return Table(
        "Bytes on the wire for one event of 250 bytes, both directions",
        ("", *recipients),
        rows,
    )
