"""Small pictures as SVG text.

Written here, because a few bars and lines need no plotting library: nothing to install,
and the same numbers give the same text, so that a change of a picture can be read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Protocol

__all__ = ["Bar", "bars", "lines", "stacks"]

WIDTH = 760
LABELS = 250  # pixels left of the bars
ROW = 26
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#777777")
GREY = "#999999"
FONT = 'font-family="system-ui, sans-serif" font-size="13"'


@dataclass(frozen=True, slots=True)
class Bar:
    """One value, with how far its rounds were apart, and a line to compare it with."""

    label: str
    value: float
    low: float
    high: float
    emphasised: bool = True


def bars(title: str, groups: Mapping[str, Sequence[Bar]], *, mark: float | None = None) -> str:
    """Horizontal bars in groups, with whiskers; ``mark`` draws a line across."""
    longest = max(bar.high for group in groups.values() for bar in group)
    scale = (WIDTH - LABELS - 70) / longest
    parts: list[str] = []
    y = 50
    for name, group in groups.items():
        parts.append(_text(10, y + 14, name, bold=True))
        y += ROW
        for bar in group:
            parts.extend(_bar(bar, y, scale))
            y += ROW
        y += ROW // 3
    if mark is not None:
        x = LABELS + mark * scale
        parts.insert(0, _line(x, 40, x, y, GREY, dashed=True))
    return _document(title, y + 10, parts)


def _bar(bar: Bar, y: int, scale: float) -> list[str]:
    middle = y + 9
    colour = COLOURS[0] if bar.emphasised else COLOURS[6]
    return [
        _text(LABELS - 8, y + 14, bar.label, anchor="end"),
        _rectangle(LABELS, y, bar.value * scale, 18, colour),
        _line(LABELS + bar.low * scale, middle, LABELS + bar.high * scale, middle, "#222222"),
        _text(LABELS + bar.high * scale + 6, y + 14, f"{bar.value:.2f}"),
    ]


def stacks(title: str, rows: Mapping[str, Mapping[str, float]], unit: str) -> str:
    """Horizontal bars made of named parts, with a legend."""
    names = list(dict.fromkeys(name for parts in rows.values() for name in parts))
    colour = dict(zip(names, COLOURS, strict=False))
    scale = (WIDTH - LABELS - 90) / max(sum(parts.values()) for parts in rows.values())
    drawn: list[str] = []
    y = 50
    for label, parts in rows.items():
        drawn.append(_text(LABELS - 8, y + 20, label, anchor="end"))
        x = float(LABELS)
        for name, value in parts.items():
            drawn.append(_rectangle(x, y, value * scale, 30, colour[name], f"{name}: {value:.1f}"))
            if value * scale > 30:
                drawn.append(_text(x + value * scale / 2, y + 20, f"{value:.0f}", anchor="middle"))
            x += value * scale
        drawn.append(_text(x + 6, y + 20, f"{sum(parts.values()):.0f} {unit}"))
        y += 44
    return _document(title, y + 50, [*drawn, *_legend(names, colour, y)])


def _legend(names: Sequence[str], colour: Mapping[str, str], y: int) -> list[str]:
    parts: list[str] = []
    for number, name in enumerate(names):
        x = 20 + number % 4 * (WIDTH - 40) / 4
        line = y + number // 4 * 22
        parts += [_rectangle(x, line, 14, 14, colour[name]), _text(x + 20, line + 12, name)]
    return parts


def lines(title: str, series: Mapping[str, Sequence[tuple[float, float]]], x_title: str) -> str:
    """Values over a logarithmic axis; the vertical axis begins at 0."""
    height, left, top = 300, 60, 50
    points = [point for line in series.values() for point in line]
    highest = max(y for _, y in points) * 1.15
    # There is no logarithm of 0: it stands one place left of the first.
    logs = sorted({_log(x) for x, _ in points})
    first, last = logs[0], logs[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = (_log(x) - first) / (last - first) * (WIDTH - left - 150)
        return left + across, top + height - y / highest * height

    parts = _axes(place, sorted({x for x, _ in points}), highest, x_title)
    for (name, line), colour in zip(series.items(), COLOURS, strict=False):
        placed = [place(x, y) for x, y in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in placed]
        parts.append(_text(placed[-1][0] + 8, placed[-1][1] + 4, name))
    return _document(title, top + height + 60, parts)


class _Place(Protocol):
    def __call__(self, x: float, y: float) -> tuple[float, float]: ...


def _axes(place: _Place, ticks: Sequence[float], highest: float, x_title: str) -> list[str]:
    parts: list[str] = []
    start, end = ticks[0], ticks[-1]
    step = _round_step(highest / 4)
    value = 0.0
    while value <= highest:
        (x1, y), (x2, _) = place(start, value), place(end, value)
        parts += [_line(x1, y, x2, y, "#dddddd"), _text(x1 - 8, y + 4, f"{value:g}", anchor="end")]
        value += step
    for tick in ticks:
        x, y = place(tick, 0)
        parts.append(_text(x, y + 20, f"{tick:,.0f}", anchor="middle"))
    x, y = place(end, 0)
    parts.append(_text(x, y + 42, x_title, anchor="end"))
    return parts


def _round_step(step: float) -> float:
    power = 10 ** math.floor(math.log10(step))
    return float(next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step))


def _log(x: float) -> float:
    return math.log10(x) if x else -1.0


def _text(x: float, y: float, text: str, *, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'


def _rectangle(x: float, y: float, width: float, height: float, colour: str, hint: str = "") -> str:
    title = f"<title>{escape(hint)}</title>" if hint else ""
    size = f'width="{max(width, 0):.1f}" height="{height:.1f}"'
    return f'<rect x="{x:.1f}" y="{y:.1f}" {size} fill="{colour}">{title}</rect>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, *, dashed: bool = False) -> str:
    dashes = ' stroke-dasharray="4 3"' if dashed else ""
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}"{dashes}/>'


def _document(title: str, height: float, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" {FONT}>\n'
        f"<title>{escape(title)}</title>\n"
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="white"/>\n'
        f"{_text(10, 26, title, bold=True)}\n{body}\n</svg>\n"
    )
