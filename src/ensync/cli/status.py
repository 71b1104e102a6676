"""``ensync status``: what a running local engine is doing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ensync.cli.admin_client import AdminClient, engine_at, running_engine
from ensync.cli.ending import turns_until_ctrl_c
from ensync.cli.failures import UNREACHABLE, CommandError
from ensync.cli.output import out, print_json, shown
from ensync.cli.paths import DataOption
from ensync.cli.quantities import seconds
from ensync.cli.settings import ADMIN_URL

__all__ = ["status_command"]

# Short, so that names have room beside them in a terminal of 80 columns.
QUEUE_COLUMNS = ("waiting", "in flight", "deferred", "acked", "discarded", "expired")
QUEUE_FIELDS = ("waiting", "leased", "deferred", "acknowledged", "discarded", "expired")
SHOWN_COUNTS = (
    "published",
    "delivered",
    "redelivered",
    "acknowledged",
    "deferred",
    "discarded",
    "expired",
)


def status_command(
    watch: Annotated[bool, typer.Option("--watch", help="Go on, until Ctrl-C.")] = False,
    interval: Annotated[
        float,
        typer.Option(parser=seconds, metavar="SECONDS", help="Seconds between looks."),
    ] = 1.0,
    data: DataOption = None,
    admin_url: Annotated[
        str | None, typer.Option(help=f"The running engine. Else ${ADMIN_URL}.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print a line of JSON.")] = False,
) -> None:
    """Show the queues and clients of a running local engine.

    Its admin URL is printed by ensync serve. With --data it is found beside the data file.
    """
    engine = _engine(data, admin_url)
    if not watch:
        _show(engine.ask("GET", "status"), as_json=json)
        return
    with turns_until_ctrl_c(interval) as turns:
        if _can_redraw() and not json:
            _watch(engine, turns)
            return
        for _ in turns:
            _show(engine.ask("GET", "status"), as_json=json)


def _engine(data: Path | None, admin_url: str | None) -> AdminClient:
    if data is None:
        return engine_at(admin_url)
    engine = running_engine(data)
    if engine is None:
        raise CommandError(f"no engine is running on {data}", UNREACHABLE)
    return engine


def _can_redraw() -> bool:
    return out.is_terminal and not out.is_dumb_terminal


def _show(status: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(status)
    else:
        out.print(_rendered(status))


def _watch(engine: AdminClient, turns: Iterator[None]) -> None:
    with Live(console=out, screen=True, auto_refresh=False) as live:
        for _ in turns:
            live.update(_rendered(engine.ask("GET", "status")), refresh=True)


def _rendered(status: Any) -> RenderableType:
    counts = ", ".join(f"{status['statistics'][name]:,} {name}" for name in SHOWN_COUNTS)
    parts: list[RenderableType] = [
        _wrapped(f"{status['url']}  {status['websocket_url']}"),
        _wrapped(f"since its start: {counts}"),
        Text(),
        _queues(status["queues"]),
        Text(),
        _clients(status["clients"]),
    ]
    return Group(*parts)


def _wrapped(text: str) -> Text:
    # A live view would cut it at the terminal's width. Whatever else reads it gets it whole.
    return Text(text, no_wrap=False, overflow="fold") if out.is_terminal else Text(text)


def _queues(queues: list[Any]) -> RenderableType:
    if not queues:
        return Text("no events")
    table = _table("app", "event name")
    for column in QUEUE_COLUMNS:
        table.add_column(column, justify="right", overflow="fold")
    for queue in queues:
        numbers = [f"{queue[field]:,}" for field in QUEUE_FIELDS]
        table.add_row(_app(queue), shown(queue["event_name"]), *numbers)
    return table


def _clients(clients: list[Any]) -> RenderableType:
    if not clients:
        return Text("no clients")
    table = _table("clients of", "subscribed to")
    for client in clients:
        names = [
            one["event_name"] + (" (paused)" if one["paused"] else "")
            for one in client["subscriptions"]
        ]
        table.add_row(_app(client), shown(", ".join(names) or "nothing"))
    return table


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")  # a name cut short is no use to anybody
    return table


def _app(holder: Any) -> Text:
    return shown(holder["app"] or f"{holder['app_id']} (removed)")
