"""``ensync apps``: who may connect to a local engine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import anyio.to_thread
import typer
from rich.table import Table
from rich.text import Text

from ensync.cli.admin_client import AdminClient, engine_at, running_engine
from ensync.cli.failures import WRONG_USE, CommandError
from ensync.cli.output import note, out, print_env, print_json, shown
from ensync.cli.paths import DataOption
from ensync.cli.running import run_async
from ensync.cli.settings import ADMIN_URL
from ensync.server.admin import open_admin
from ensync.server.local import LocalEngine
from ensync.server.retention import Retention

__all__ = ["apps_group"]

apps_group = typer.Typer(
    no_args_is_help=True,
    help="""Make, list and remove the apps of a local engine.

    With --data they are those of an engine that keeps its data there, running or not. Without
    it, those of the running engine at ENSYNC_ADMIN_URL, which ensync serve prints.""",
)

APP_ID = "app id"
HEADINGS = ("name", APP_ID, "may send", "may receive")
# How much the engine keeps is for whoever runs it to say: a look must not make it forget.
KEEP_ALL = Retention(events=sys.maxsize, bytes=sys.maxsize)

Ask: TypeAlias = Callable[..., Any]

AdminOption: TypeAlias = Annotated[
    str | None, typer.Option("--admin-url", help=f"The running engine. Else ${ADMIN_URL}.")
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]
NameArgument: TypeAlias = Annotated[str, typer.Argument(help="The app's name, or its app id.")]


@apps_group.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What to call it.")],
    data: DataOption = None,
    admin_url: AdminOption = None,
    send: Annotated[
        list[str] | None,
        typer.Option(help="An event name it may publish; again for more. Else: all."),
    ] = None,
    receive: Annotated[
        list[str] | None,
        typer.Option(help="An event name it may subscribe to; again for more. Else: all."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make an app, and print its keys as lines for a .env file.

    The keys are not kept and not shown again. A data file that is not there yet is made.
    """

    def work(ask: Ask) -> None:
        app = ask("POST", "apps", body={"name": name, "send": send, "receive": receive})
        with _removed_unless_shown(ask, app["app_id"]):
            if json:
                print_json(app)
                return
            print_env({"ENSYNC_APP_KEY": app["app_key"], "ENSYNC_SECRET_KEY": app["secret_key"]})
        note(f"{name!r} is app {app['app_id']}")

    _with_engine(data, admin_url, work, make_file=True)


@contextmanager
def _removed_unless_shown(ask: Ask, app_id: str) -> Generator[None]:
    # Its keys are known to nobody then.
    try:
        yield
    except BaseException:
        ask("DELETE", "apps", app_id)
        raise


@apps_group.command("list")
def list_apps(
    data: DataOption = None, admin_url: AdminOption = None, json: JsonOption = False
) -> None:
    """Show all apps."""

    def work(ask: Ask) -> None:
        apps = ask("GET", "apps")
        if json:
            print_json(apps)
            return
        # An app id over two lines can't be copied.
        longest = max((len(app["app_id"]) for app in apps), default=0)
        table = Table(box=None, pad_edge=False)
        for heading in HEADINGS:
            whole = longest if heading == APP_ID else None
            table.add_column(heading, overflow="fold", min_width=whole)
        for app in apps:
            table.add_row(*_texts(app))
        out.print(table)

    _with_engine(data, admin_url, work)


@apps_group.command("show")
def show(
    name: NameArgument,
    data: DataOption = None,
    admin_url: AdminOption = None,
    json: JsonOption = False,
) -> None:
    """Show one app. Its keys are not kept, so they can't be shown."""

    def work(ask: Ask) -> None:
        app = _find(ask, name)
        if json:
            print_json(app)
            return
        table = Table(box=None, show_header=False, pad_edge=False)
        for heading, text in zip(HEADINGS, _texts(app), strict=True):
            table.add_row(heading, text)
        out.print(table)

    _with_engine(data, admin_url, work)


@apps_group.command("rotate")
def rotate(
    name: NameArgument,
    data: DataOption = None,
    admin_url: AdminOption = None,
    json: JsonOption = False,
) -> None:
    """Give an app a new app key. The old one is refused from now on.

    Its app id and secret key stay, and so do clients that are connected.
    """

    def work(ask: Ask) -> None:
        app = ask("POST", "rotate", _find(ask, name)["app_id"])
        if json:
            print_json(app)
        else:
            print_env({"ENSYNC_APP_KEY": app["app_key"]})

    _with_engine(data, admin_url, work)


@apps_group.command("remove")
def remove(name: NameArgument, data: DataOption = None, admin_url: AdminOption = None) -> None:
    """Remove an app. Its key is refused from now on, and its clients are disconnected."""

    def work(ask: Ask) -> None:
        ask("DELETE", "apps", _find(ask, name)["app_id"])
        note(f"removed {name!r}")

    _with_engine(data, admin_url, work)


def _texts(app: Any) -> list[Text]:
    values = [app["name"], app["app_id"], ", ".join(app["send"]), ", ".join(app["receive"])]
    return [shown(value) for value in values]


def _find(ask: Ask, name: str) -> Any:
    apps = ask("GET", "apps")
    for app in apps:
        if name in (app["name"], app["app_id"]):
            return app
    names = ", ".join(repr(app["name"]) for app in apps) or "no app at all"
    raise CommandError(f"there is no app {name!r}; there is {names}", WRONG_USE)


def _with_engine(
    data: Path | None,
    admin_url: str | None,
    work: Callable[[Ask], None],
    *,
    make_file: bool = False,
) -> None:
    if data is not None and admin_url is not None:
        raise CommandError("give --data or --admin-url, not both", WRONG_USE)
    if data is not None and not make_file:
        _check_holds_data(data)
    engine = engine_at(admin_url) if data is None else running_engine(data)
    if engine is not None:
        work(engine.ask)
        return
    assert data is not None
    run_async(lambda: _with_engine_of_our_own(data, work))


def _check_holds_data(data: Path) -> None:
    if not data.exists():
        raise CommandError(f"there is no data file {data}", WRONG_USE)
    if not data.stat().st_size:  # opening it would make one of it
        raise CommandError(f"{data} is empty: it is no data file yet", WRONG_USE)


async def _with_engine_of_our_own(data: Path, work: Callable[[Ask], None]) -> None:
    async with (
        LocalEngine(data=data, retention=KEEP_ALL) as engine,
        open_admin(engine) as admin,
    ):
        # It waits for answers of this very loop.
        await anyio.to_thread.run_sync(work, AdminClient(admin.url).ask)
