"""``ensync demo``: shows how the demo goes on, and what it found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import anyio
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ensync.address import TransportName
from ensync.cli.demo import Demo, DemoError, DemoSummary
from ensync.cli.failures import CommandError
from ensync.cli.output import note, out, to_stderr
from ensync.cli.running import Backend, run_async, until_interrupted
from ensync.scopes import background_tasks

__all__ = ["demo_command"]

STAGES = ("published", "received", "acknowledged")
REDRAW_INTERVAL = 0.1  # seconds
LINE_INTERVAL = 1.0  # seconds
MAX_EVENTS = 1_000_000


def demo_command(
    backend: Annotated[Backend, typer.Option(help="What to run on.")] = "asyncio",
    events: Annotated[
        int, typer.Option(min=1, max=MAX_EVENTS, help="How many events to send.")
    ] = 5000,
    transport: Annotated[
        TransportName, typer.Option(help="How the two apps reach the engine.")
    ] = "grpc",
) -> None:
    """Watch events flow through a local engine.

    Starts an engine inside this process, makes two apps, and publishes events from one
    to the other, which consumes and acknowledges them. Fails unless each arrives
    decrypted, exactly once, and is acknowledged.
    """
    demo = Demo(events, transport)

    async def run() -> None:
        note(f"{events} encrypted events, over {transport} on {backend}, through a local engine")
        try:
            summary = await _shown(demo)
        except DemoError as error:
            raise CommandError(f"the demo failed: {error}") from error
        _print_summary(summary)

    run_async(lambda: until_interrupted(run), backend)


async def _shown(demo: Demo) -> DemoSummary:
    if not to_stderr.is_terminal:
        return await _in_plain_lines(demo)
    return await _with_bars(demo)


async def _in_plain_lines(demo: Demo) -> DemoSummary:
    def say_counts() -> None:
        note(", ".join(f"{getattr(demo, stage)} {stage}" for stage in STAGES))

    return await _while_showing(demo, say_counts, LINE_INTERVAL)


async def _with_bars(demo: Demo) -> DemoSummary:
    columns = (
        TextColumn("{task.description:>12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=to_stderr, auto_refresh=False) as progress:
        bars = {stage: progress.add_task(stage, total=demo.total) for stage in STAGES}

        def redraw() -> None:
            for stage, bar in bars.items():
                progress.update(bar, completed=getattr(demo, stage))
            progress.refresh()

        return await _while_showing(demo, redraw, REDRAW_INTERVAL)


async def _while_showing(demo: Demo, show: Callable[[], None], interval: float) -> DemoSummary:
    async def keep_showing() -> None:
        while True:
            await anyio.sleep(interval)
            show()

    async with background_tasks() as tasks:
        tasks.start_soon(keep_showing)
        summary = await demo.run()
    show()
    return summary


def _print_summary(summary: DemoSummary) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    rows = {
        "events": f"{summary.events:,}",
        "rate": f"{summary.rate:,.0f} events/s",
        "latency p50": f"{summary.latency_p50 * 1000:.1f} ms",
        "latency p99": f"{summary.latency_p99 * 1000:.1f} ms",
        "redeliveries": f"{summary.redeliveries:,}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    out.print(table)
    note("Each event arrived decrypted, exactly once, and was acknowledged.")
