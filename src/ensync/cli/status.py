"""``ensync status``: what a running local engine is doing."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ensync.cli.admin_client import AdminClient, running_engine
from ensync.cli.failures import UNREACHABLE, CommandError
from ensync.cli.output import out, print_json
from ensync.cli.running import user_errors
from ensync.cli.settings import ADMIN_URL, Settings

__all__ = ["status_command"]

QUEUE_COLUMNS = ("waiting", "in flight", "deferred", "acknowledged", "discarded")
QUEUE_FIELDS = ("waiting", "leased", "deferred", "acknowledged", "discarded")
SHOWN_COUNTS = ("published", "delivered", "redelivered", "acknowledged", "deferred", "discarded")


def status_command(
    watch: Annotated[bool, typer.Option("--watch", help="Go on, until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 1.0,
    data: Annotated[
        Path | None, typer.Option(dir_okay=False, help="The data file of the engine.")
    ] = None,
    admin_url: Annotated[
        str | None, typer.Option(help=f"The running engine. Else ${ADMIN_URL}.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print a line of JSON.")] = False,
) -> None:
    """Show the queues and clients of a running local engine.

    Its admin URL is printed by ensync serve. With --data it is found beside the data file.
    """
    with user_errors():
        engine = _engine(data, admin_url)
        if not watch:
            _show(engine.ask("GET", "status"), as_json=json)
            return
        with suppress(KeyboardInterrupt):
            _watch_as_json(engine, interval) if json else _watch(engine, interval)


def _engine(data: Path | None, admin_url: str | None) -> AdminClient:
    if data is None:
        return AdminClient(Settings({ADMIN_URL: admin_url}).need(ADMIN_URL))
    engine = running_engine(data)
    if engine is None:
        raise CommandError(f"no engine is running on {data}", UNREACHABLE)
    return engine


def _show(status: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(status)
    else:
        out.print(_rendered(status))


def _watch_as_json(engine: AdminClient, interval: float) -> None:
    while True:
        print_json(engine.ask("GET", "status"))
        time.sleep(interval)


def _watch(engine: AdminClient, interval: float) -> None:
    with Live(console=out, screen=out.is_terminal, auto_refresh=False) as live:
        while True:
            live.update(_rendered(engine.ask("GET", "status")), refresh=True)
            time.sleep(interval)


def _rendered(status: Any) -> RenderableType:
    counts = ", ".join(f"{status['statistics'][name]:,} {name}" for name in SHOWN_COUNTS)
    parts: list[RenderableType] = [
        Text(f"{status['url']}  {status['websocket_url']}"),
        Text(f"since its start: {counts}"),
        Text(),
        _queues(status["queues"]),
        Text(),
        _clients(status["clients"]),
    ]
    return Group(*parts)


def _queues(queues: list[Any]) -> RenderableType:
    if not queues:
        return Text("no events")
    table = _table("app", "event name")
    for column in QUEUE_COLUMNS:
        table.add_column(column, justify="right")
    for queue in queues:
        numbers = [f"{queue[field]:,}" for field in QUEUE_FIELDS]
        table.add_row(_app(queue), Text(queue["event_name"]), *numbers)
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
        table.add_row(_app(client), Text(", ".join(names) or "nothing"))
    return table


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")  # a name cut short is no use to anybody
    return table


def _app(holder: Any) -> Text:
    return Text(holder["app"] or f"{holder['app_id']} (removed)")
