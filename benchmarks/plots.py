"""The pictures of the documentation, made from results."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.contenders import CONTENDERS
from benchmarks.results import Results, Spread
from benchmarks.scenarios import Scenario
from benchmarks.svg import Bar, bars, lines

__all__ = ["draw_all"]


def draw_all(all_results: Sequence[Results]) -> dict[str, str]:
    """Pictures by name, of the sections that were measured."""
    drawn: dict[str, str] = {}
    for results in all_results:
        section = results.section
        if not results.measured or section.fresh:
            continue
        if section.baseline is not None:
            drawn[section.key] = _ratio_bars(results, section.baseline)
        elif section.key == "subscriptions":
            drawn[section.key] = _growth_lines(results, section.scenarios[:-1], "subscriptions")
        elif section.key == "backlog":
            drawn[section.key] = _backlog_lines(results)
    return drawn


def _ratio_bars(results: Results, baseline: str) -> str:
    groups: dict[str, list[Bar]] = {}
    for scenario in results.section.scenarios:
        metric = scenario.metrics[0]
        title = f"{scenario.title}, {metric.title}" if metric.title else scenario.title
        for contender in results.section.contenders:
            ratio = results.ratio(scenario.key, contender, metric)
            if ratio is None or contender == "nats":
                continue
            is_ours = CONTENDERS[contender].requirement is None and contender != baseline
            bar = Bar(CONTENDERS[contender].title, *ratio, emphasised=is_ours)
            groups.setdefault(title, []).append(bar)
    title = f"{results.section.title}: times as fast as {CONTENDERS[baseline].title}"
    return bars(title, groups, mark=1.0)


def _growth_lines(results: Results, scenarios: Sequence[Scenario], unit: str) -> str:
    series: dict[str, list[tuple[float, float]]] = {}
    for contender in results.section.contenders:
        points = _points(results, scenarios, contender)
        if points:
            series[CONTENDERS[contender].title] = points
    return lines(f"{results.section.title}, µs an event", series, unit)


def _backlog_lines(results: Results) -> str:
    half = len(results.section.scenarios) // 2
    publish, consume = results.section.scenarios[:half], results.section.scenarios[half:]
    contender = results.section.contenders[0]
    series = {
        "publish": _points(results, publish, contender),
        "consume": _points(results, consume, contender),
    }
    title = f"{results.section.title}, µs an event"
    return lines(title, {name: line for name, line in series.items() if line}, "events waiting")


def _points(
    results: Results, scenarios: Sequence[Scenario], contender: str
) -> list[tuple[float, float]]:
    points: list[tuple[float, float]] = []
    for scenario in scenarios:
        values = results.values(scenario.key, contender, scenario.metrics[0])
        if values:
            size = float(scenario.title.rpartition(" ")[2].replace(",", ""))
            points.append((size, Spread.of(values).median))
    return points
