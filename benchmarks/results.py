"""Measurements, and the ratios that they make."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmarks.clients.job import Measurement
from benchmarks.scenarios import Metric, Section

__all__ = ["Results", "Spread"]


class Spread(NamedTuple):
    """A median, and how far the rounds were apart."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


@dataclass
class Results:
    """All that was measured in one section, by scenario and contender, a value per round."""

    section: Section
    measured: dict[tuple[str, str], list[Measurement]] = field(
        default_factory=dict[tuple[str, str], list[Measurement]]
    )
    failures: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])

    def add(self, scenario: str, contender: str, measurement: Measurement) -> None:
        self.measured.setdefault((scenario, contender), []).append(measurement)

    def values(self, scenario: str, contender: str, metric: Metric) -> list[float]:
        """A metric's values, in the order of the rounds."""
        return [metric.of(m) for m in self.measured.get((scenario, contender), [])]

    def ratio(self, scenario: str, contender: str, metric: Metric) -> Spread | None:
        """How many times better than the baseline, round by round.

        Where a contender is its own baseline: how many times the cost of the scenario that
        this one is compared with.
        """
        mine = self.values(scenario, contender, metric)
        baseline = self.section.baseline
        if baseline is None:
            first = self._compared_with(scenario)
            return _ratios(mine, self.values(first, contender, metric), lambda a, b: a / b)
        return _ratios(mine, self.values(scenario, baseline, metric), lambda a, b: b / a)

    def _compared_with(self, scenario: str) -> str:
        scenarios = self.section.scenarios
        named = next((each.compared_with for each in scenarios if each.key == scenario), "")
        return named or scenarios[0].key

    def server_load(self, scenario: str) -> tuple[str, float] | None:
        """The contender that kept the server busiest, and which part of the time it was busy."""
        loads = {
            contender: statistics.median(
                m.server_cpu / m.seconds for m in measurements if m.server_cpu is not None
            )
            for (key, contender), measurements in self.measured.items()
            if key == scenario and any(m.server_cpu is not None for m in measurements)
        }
        return max(loads.items(), key=lambda load: load[1]) if loads else None

    @classmethod
    def from_json(cls, kept: dict[str, Any], section: Section) -> Results:
        """What :meth:`as_json` made of a section."""
        results = cls(section)
        for entry in kept["measured"]:
            for measured in entry["rounds"]:
                results.add(entry["scenario"], entry["contender"], Measurement(**measured))
        return results

    def as_json(self) -> dict[str, Any]:
        return {
            "section": self.section.key,
            "title": self.section.title,
            "baseline": self.section.baseline,
            "measured": [
                {
                    "scenario": scenario,
                    "contender": contender,
                    "rounds": [dataclasses.asdict(m) for m in measurements],
                }
                for (scenario, contender), measurements in self.measured.items()
            ],
            "failures": [
                {"scenario": scenario, "contender": contender, "reason": reason}
                for (scenario, contender), reason in self.failures.items()
            ],
        }


def _ratios(
    mine: list[float], other: list[float], ratio: Callable[[float, float], float]
) -> Spread | None:
    pairs = list(zip(mine, other, strict=False))
    return Spread.of([ratio(a, b) for a, b in pairs]) if pairs else None
