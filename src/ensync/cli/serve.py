"""``ensync serve``: a local engine until a signal ends it."""

from __future__ import annotations

import logging
import shlex
import ssl
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeAlias

import typer

from ensync.address import is_loopback
from ensync.cli.admin_client import announced
from ensync.cli.ending import asked_to_end
from ensync.cli.failures import WRONG_USE, CommandError
from ensync.cli.output import note, print_env, print_json
from ensync.cli.paths import file_path
from ensync.cli.quantities import duration, size
from ensync.cli.running import run_async
from ensync.cli.wording import counted
from ensync.server.admin import open_admin
from ensync.server.apps import App
from ensync.server.listening import CannotListenError, Purpose
from ensync.server.local import LocalEngine
from ensync.server.retention import Retention
from ensync.server.ui import open_page

__all__ = ["serve_command"]

FIRST_APP = "first-app"

LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]

DEFAULT_RETENTION = Retention()
LOOPBACK = "127.0.0.1"
HOST_AND_PORT_FLAGS: dict[Purpose, tuple[str, str]] = {
    "gRPC": ("--host", "--port"),
    "WebSocket": ("--host", "--ws-port"),
    "the page": ("--ui-host", "--ui-port"),
}


class PageOptions(NamedTuple):
    """Where to serve the page."""

    host: str
    port: int
    tls: ssl.SSLContext | None


class Options(NamedTuple):
    """What to serve beside the engine's doors, and how to tell of it."""

    data: Path | None
    page: PageOptions | None
    warning: str | None
    as_json: bool


class Serving(NamedTuple):
    """A running engine, and all there is to tell about how to reach it."""

    engine: LocalEngine
    admin_url: str
    page_url: str | None
    new_app: App | None


def serve_command(
    *,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port for gRPC; 0: any free one.")
    ] = 50051,
    ws_port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port for WebSocket; 0: any free one.")
    ] = 8082,
    data: Annotated[
        Path | None,
        typer.Option(
            parser=file_path,
            metavar="FILE",
            help="Keep everything in this file. Else: in memory.",
        ),
    ] = None,
    retain_for: Annotated[
        float | None,
        typer.Option(
            parser=duration,
            metavar="DURATION",
            help="How long to keep settled events for replay, such as 12h or 7d. Else: for ever.",
            show_default=False,
        ),
    ] = None,
    retain_count: Annotated[
        int, typer.Option(min=0, help="How many settled events to keep for replay.")
    ] = DEFAULT_RETENTION.events,
    retain_size: Annotated[
        int | None,
        typer.Option(
            parser=size,
            metavar="SIZE",
            help="How much they may take together, such as 500MB. Else: 1GiB.",
            show_default=False,
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(dir_okay=False, exists=True, help="Certificate chain (PEM) to serve with."),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(dir_okay=False, exists=True, help="Its private key (PEM), if in a file."),
    ] = None,
    ui: Annotated[
        bool, typer.Option("--ui", help="Serve a page that shows what is going on; print its link.")
    ] = False,
    ui_host: Annotated[
        str | None,
        typer.Option(help=f"The address to serve the page on. Else: {LOOPBACK}."),
    ] = None,
    ui_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="The port for the page. Else: any free one."),
    ] = None,
    log_level: Annotated[LogLevel, typer.Option(help="How much to log.")] = "warning",
    json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Run a local engine until Ctrl-C or SIGTERM.

    Prints where it is, as lines for a .env file, on standard output. An engine that has no
    app yet makes one, and prints its keys; they are not shown again.
    """

    async def run() -> None:
        tls = _tls_context(tls_cert, tls_key, ["h2", "http/1.1"])
        page = _page_options(ui, ui_host, ui_port, tls_cert, tls_key)
        engine = LocalEngine(
            data=data,
            host=host,
            port=port,
            websocket_port=ws_port,
            tls=tls,
            retention=_retention(retain_count, retain_size, retain_for),
        )
        with _flags_named():
            await _serve(engine, Options(data, page, _plain_text_warning(host, tls), json))

    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    run_async(run)


def _retention(count: int, size_limit: int | None, age: float | None) -> Retention:
    return Retention(count, DEFAULT_RETENTION.bytes if size_limit is None else size_limit, age)


def _page_options(
    wanted: bool, host: str | None, port: int | None, certificate: Path | None, key: Path | None
) -> PageOptions | None:
    if not wanted:
        if host is not None or port is not None:
            raise CommandError("--ui-host and --ui-port need --ui", WRONG_USE)
        return None
    host = host or LOOPBACK
    # On loopback the certificate would be for another name.
    tls = None if is_loopback(host) else _tls_context(certificate, key, ["http/1.1"])
    return PageOptions(host, port or 0, tls)


@contextmanager
def _flags_named() -> Iterator[None]:
    try:
        yield
    except CannotListenError as error:
        flags = HOST_AND_PORT_FLAGS.get(error.purpose)
        if flags is None:
            raise
        host_flag, port_flag = flags
        advice = f"{port_flag} takes another port (0: any free one)"
        if not error.port_is_to_blame:
            advice = f"{host_flag} must be an address of this machine"
        raise CommandError(f"{error}. {advice}") from error


async def _serve(engine: LocalEngine, options: Options) -> None:
    # Watched for from the first: a signal during the start must not leave a half-made file.
    async with asked_to_end() as ending, AsyncExitStack() as stack:
        await stack.enter_async_context(engine)
        admin = await stack.enter_async_context(open_admin(engine))
        if options.warning is not None:  # not before: that it can't listen there matters more
            note(options.warning)
        page_url = await _open_page(stack, engine, options.page)
        stack.enter_context(announced(options.data, admin.url))
        app = None if engine.apps.list() else engine.create_app(FIRST_APP)
        try:
            _print_how_to_connect(Serving(engine, admin.url, page_url, app), options)
        except BaseException:
            if app is not None:  # its keys are known to nobody
                await engine.remove_app(app.app_id)
            raise
        await ending.wait()
    note("ended")


async def _open_page(
    stack: AsyncExitStack, engine: LocalEngine, options: PageOptions | None
) -> str | None:
    if options is None:
        return None
    page = await stack.enter_async_context(open_page(engine, **options._asdict()))
    if options.tls is None and not is_loopback(options.host):
        note(
            f"warning: serving the page on {options.host} without TLS: others can read it and "
            "its link on the way"
        )
    return page.url


def _print_how_to_connect(serving: Serving, options: Options) -> None:
    engine, admin_url, page_url, app = serving
    if options.as_json:
        print_json(_as_json(serving))
        return
    print_env(
        {
            "ENSYNC_URL": engine.url,
            "ENSYNC_WS_URL": engine.websocket_url,
            "ENSYNC_ADMIN_URL": admin_url,
        }
    )
    if page_url is not None:
        note(f"what is going on: {page_url}")
    if app is None:
        where = "" if options.data is None else f" --data {shlex.quote(str(options.data))}"
        note(
            f"serving {counted(len(engine.apps.list()), 'app')}, whose keys were shown when they "
            f"were made; make another: ensync apps create NAME{where}"
        )
        return
    print_env({"ENSYNC_APP_KEY": app.app_key, "ENSYNC_SECRET_KEY": app.secret_key})
    note(
        f"serving; {app.name!r} is app {app.app_id}\n"
        "Put the lines above into the environment or a .env file, then, in another terminal:\n"
        "  ensync doctor\n"
        "Ctrl-C ends it."
    )


def _as_json(serving: Serving) -> dict[str, object]:
    return {
        "url": serving.engine.url,
        "websocket_url": serving.engine.websocket_url,
        "admin_url": serving.admin_url,
        "ui_url": serving.page_url,
        "app": None if serving.new_app is None else serving.new_app._asdict(),
    }


def _tls_context(
    certificate: Path | None, key: Path | None, protocols: list[str]
) -> ssl.SSLContext | None:
    if certificate is None:
        if key is not None:
            raise CommandError("--tls-key needs --tls-cert", WRONG_USE)
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(protocols)
    try:
        context.load_cert_chain(certificate, key)
    except (ssl.SSLError, OSError) as error:
        raise CommandError(
            f"--tls-cert {certificate}: {error.strerror or error}. Both must be PEM files that "
            "belong together",
            WRONG_USE,
        ) from error
    return context


def _plain_text_warning(host: str, tls: ssl.SSLContext | None) -> str | None:
    if tls is not None or is_loopback(host):
        return None
    return (
        f"warning: listening on {host} without TLS: others can read app keys, names and "
        "metadata on the way; payloads stay encrypted"
    )
