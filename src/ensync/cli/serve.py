"""``ensync serve``: a local engine until a signal ends it."""

from __future__ import annotations

import logging
import signal
import ssl
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import anyio
import typer

from ensync.address import is_loopback
from ensync.cli.admin_client import announced
from ensync.cli.failures import WRONG_USE, CommandError
from ensync.cli.output import note, print_env, print_json
from ensync.cli.running import run_async
from ensync.server.admin import AdminEndpoint, open_admin
from ensync.server.apps import App
from ensync.server.local import LocalEngine

__all__ = ["serve_command"]

FIRST_APP = "first-app"
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)

LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]


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
        typer.Option(dir_okay=False, help="Keep everything in this file. Else: in memory."),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(dir_okay=False, exists=True, help="Certificate chain (PEM) to serve with."),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(dir_okay=False, exists=True, help="Its private key (PEM), if in a file."),
    ] = None,
    log_level: Annotated[LogLevel, typer.Option(help="How much to log.")] = "warning",
    json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Run a local engine until Ctrl-C or SIGTERM.

    Prints where it is, as lines for a .env file, on standard output. An engine that has no
    app yet makes one, and prints its keys; they are not shown again.
    """

    async def run() -> None:
        tls = _tls_context(tls_cert, tls_key)
        _warn_of_plain_text(host, tls)
        engine = LocalEngine(data=data, host=host, port=port, websocket_port=ws_port, tls=tls)
        await _serve(engine, data, as_json=json)

    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    run_async(run)


async def _serve(engine: LocalEngine, data: Path | None, *, as_json: bool) -> None:
    # Watched for from the first: a signal during the start must not leave a half-made file.
    with anyio.open_signal_receiver(*ENDING_SIGNALS) as signals:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(engine)
            admin = await stack.enter_async_context(open_admin(engine))
            stack.enter_context(announced(data, admin.url))
            app = None if engine.apps.list() else engine.create_app(FIRST_APP)
            _print_how_to_connect(engine, admin, app, as_json=as_json)
            ending = await anext(aiter(signals))
            note(f"{signal.Signals(ending).name}: ending")
    note("ended")


def _print_how_to_connect(
    engine: LocalEngine, admin: AdminEndpoint, app: App | None, *, as_json: bool
) -> None:
    urls = {"url": engine.url, "websocket_url": engine.websocket_url, "admin_url": admin.url}
    if as_json:
        print_json({**urls, "app": None if app is None else app._asdict()})
        return
    print_env(
        {
            "ENSYNC_URL": engine.url,
            "ENSYNC_WS_URL": engine.websocket_url,
            "ENSYNC_ADMIN_URL": admin.url,
        }
    )
    if app is None:
        note(f"serving {len(engine.apps.list())} apps; make another: ensync apps create NAME")
        return
    print_env({"ENSYNC_APP_KEY": app.app_key, "ENSYNC_SECRET_KEY": app.secret_key})
    note(
        f"serving; {app.name!r} is app {app.app_id}\n"
        "Put the lines above into the environment or a .env file, then, in another terminal:\n"
        "  ensync doctor\n"
        "Ctrl-C ends it."
    )


def _tls_context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if certificate is None:
        if key is not None:
            raise CommandError("--tls-key needs --tls-cert", WRONG_USE)
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        context.load_cert_chain(certificate, key)
    except (ssl.SSLError, OSError) as error:
        raise CommandError(
            f"--tls-cert {certificate}: {error.strerror or error}. Both must be PEM files that "
            "belong together",
            WRONG_USE,
        ) from error
    return context


def _warn_of_plain_text(host: str, tls: ssl.SSLContext | None) -> None:
    if tls is None and not is_loopback(host):
        note(
            f"warning: listening on {host} without TLS: others can read app keys, names and "
            "metadata on the way; payloads stay encrypted"
        )
