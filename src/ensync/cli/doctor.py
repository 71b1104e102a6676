"""``ensync doctor``: tries each step of a connection, and says what is wrong."""

from __future__ import annotations

import socket
import ssl
from typing import Annotated, NamedTuple

import anyio
import typer
from rich.text import Text

from ensync.address import Address, parse_address
from ensync.cli.connecting import check_secret_key
from ensync.cli.failures import FAILED, KEY_REFUSED, UNREACHABLE, WRONG_USE, CommandError
from ensync.cli.output import out, print_json, shown
from ensync.cli.round_trip import RoundTripError, round_trip
from ensync.cli.running import run_async
from ensync.cli.settings import (
    APP_KEY,
    SECRET_KEY,
    URL,
    AppKeyOption,
    SecretKeyOption,
    Settings,
    UrlOption,
    missing,
)
from ensync.engine import connect
from ensync.errors import (
    EnSyncAuthenticationError,
    EnSyncConnectionError,
    EnSyncError,
    EnSyncValidationError,
)
from ensync.options import Reconnect

__all__ = ["doctor_command"]

PATIENCE = 10.0  # seconds for each step


class Problem(Exception):
    """A step failed: what is wrong, and what to do about it."""

    def __init__(self, problem: str, advice: str, exit_code: int) -> None:
        super().__init__(problem)
        self.advice = advice
        self.exit_code = exit_code


class Finding(NamedTuple):
    """What came of one step."""

    step: str
    ok: bool
    detail: str
    advice: str = ""


def doctor_command(
    url: UrlOption = None,
    app_key: AppKeyOption = None,
    secret_key: SecretKeyOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each.")] = False,
) -> None:
    """Check that events can flow, step by step, and say what is wrong and what to do.

    Settings, address, name, connection, TLS, app key, and an event from the app to itself,
    named ensync/doctor. The first step that fails is the last.
    """
    settings = Settings({URL: url, APP_KEY: app_key, SECRET_KEY: secret_key})

    async def run() -> None:
        exit_code = await _Examination(settings, as_json=json).run()
        if exit_code:
            raise typer.Exit(exit_code)

    run_async(run)


class _Examination:
    def __init__(self, settings: Settings, *, as_json: bool) -> None:
        self._settings = settings
        self._as_json = as_json
        self._url = ""
        self._app_key = ""
        self._secret_key: str | None = None
        self._address = Address("", 0, "grpc", tls=False, path="")

    async def run(self) -> int:
        """Takes the steps; returns the exit code."""
        steps = {
            "settings": self._settings_are_there,
            "address": self._address_is_one,
            "name": self._name_resolves,
            "connection": self._port_answers,
            "tls": self._certificate_is_trusted,
            "app key": self._key_is_accepted,
            "round trip": self._event_comes_back,
        }
        for step, take in steps.items():
            try:
                with anyio.fail_after(PATIENCE):
                    self._show(Finding(step, True, await take()))
            except Problem as problem:
                self._show(Finding(step, False, str(problem), problem.advice))
                return problem.exit_code
            except TimeoutError:
                self._show(Finding(step, False, f"no answer in {PATIENCE:g} s", ADVICE_SILENT))
                return UNREACHABLE
        return 0

    def _show(self, finding: Finding) -> None:
        if self._as_json:
            print_json(finding._asdict())
            return
        mark = Text("ok  ", style="green") if finding.ok else Text("BAD ", style="bold red")
        out.print(mark + shown(f"{finding.step}: {finding.detail}"))
        if finding.advice:
            out.print(shown(f"    {finding.advice}"))

    async def _settings_are_there(self) -> str:
        sources: list[str] = []
        for variable in (URL, APP_KEY, SECRET_KEY):
            found = self._settings.find(variable)
            if found is None and variable != SECRET_KEY:
                raise Problem(missing(variable), ADVICE_NO_SETTINGS, WRONG_USE)
            sources.append(f"{variable}: {'not given' if found is None else found.source}")
        self._url, self._app_key = self._settings.need(URL), self._settings.need(APP_KEY)
        self._secret_key = self._settings.get(SECRET_KEY)
        return ", ".join(sources)

    async def _address_is_one(self) -> str:
        try:
            self._address = parse_address(self._url, disable_tls=False)
        except EnSyncValidationError as error:
            raise Problem(str(error), ADVICE_ADDRESS, WRONG_USE) from error
        return f"{self._address.url} ({self._address.transport})"

    async def _name_resolves(self) -> str:
        host, port = self._address.host, self._address.port
        try:
            found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise Problem(
                f"{host} has no address: {error.strerror or error}", ADVICE_NAME, UNREACHABLE
            ) from error
        return ", ".join(dict.fromkeys(str(one[4][0]) for one in found))

    async def _port_answers(self) -> str:
        host, port = self._address.host, self._address.port
        try:
            await (await anyio.connect_tcp(host, port)).aclose()
        except OSError as error:
            raise Problem(
                f"nothing answers at {host} port {port}", ADVICE_PORT, UNREACHABLE
            ) from error
        return f"port {port} answers"

    async def _certificate_is_trusted(self) -> str:
        if not self._address.tls:
            return "not used with this address"
        context = ssl.create_default_context()
        context.set_alpn_protocols(["h2"] if self._address.transport == "grpc" else ["http/1.1"])
        try:
            stream = await anyio.connect_tcp(
                self._address.host,
                self._address.port,
                ssl_context=context,
                tls_standard_compatible=False,
            )
        except ssl.SSLCertVerificationError as error:
            raise Problem(
                f"the certificate is not trusted: {error.verify_message}", ADVICE_TRUST, UNREACHABLE
            ) from error
        except (OSError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
            raise Problem("it does not speak TLS", ADVICE_NO_TLS, UNREACHABLE) from error
        await stream.aclose()
        return "the certificate is trusted"

    async def _key_is_accepted(self) -> str:
        try:
            async with connect(
                self._url, app_key=self._app_key, reconnect=Reconnect(max_attempts=1)
            ) as client:
                app_id = client.app_id
        except EnSyncAuthenticationError as error:
            raise Problem(str(error), ADVICE_KEY, KEY_REFUSED) from error
        except EnSyncConnectionError as error:
            raise Problem(str(error), ADVICE_NO_ENGINE, UNREACHABLE) from error
        except EnSyncError as error:
            raise Problem(str(error), ADVICE_KEY, WRONG_USE) from error
        self._check_secret_key(app_id)
        return f"accepted, for app {app_id}"

    def _check_secret_key(self, app_id: str) -> None:
        try:
            check_secret_key(self._settings, app_id)
        except (CommandError, EnSyncValidationError) as error:
            raise Problem(str(error), ADVICE_SECRET, WRONG_USE) from error

    async def _event_comes_back(self) -> str:
        if self._secret_key is None:
            return f"not tried: {SECRET_KEY} is not given, so this app can only publish"
        try:
            seconds = await round_trip(self._url, self._app_key, self._secret_key)
        except RoundTripError as error:
            raise Problem(str(error), ADVICE_PERMISSION, FAILED) from error
        return f"an event to itself came back in {seconds * 1000:.0f} ms"


ADVICE_NO_SETTINGS = (
    "ensync serve prints all three for an engine of your own; the keys only when it has no app "
    "yet. When they are lost, make another app: ensync apps create NAME (with --data FILE, if "
    "the engine has one)."
)
ADVICE_ADDRESS = "Correct ENSYNC_URL; an engine of your own is at grpc://localhost:50051."
ADVICE_NAME = "Look for a typing error in the host name, and whether this machine is online."
ADVICE_PORT = (
    "Start the engine (ensync serve), or correct the port; "
    "if it runs elsewhere, a firewall may be between."
)
ADVICE_SILENT = "It connects and says nothing: is that an EnSync engine, and is a firewall between?"
ADVICE_TRUST = (
    "With a certificate authority of your own, set SSL_CERT_FILE to its certificate; "
    "in a program, pass tls=ssl.create_default_context(cafile=...)."
)
ADVICE_NO_TLS = "If the engine is meant to be without TLS, use grpc:// or ws:// in ENSYNC_URL."
ADVICE_KEY = "Take the app key from where the app was made; a rotated or removed one is refused."
ADVICE_NO_ENGINE = (
    "Something answers that is not an engine of this kind: check the port, "
    "and grpc:// against ws://, grpcs:// against grpc://."
)
ADVICE_SECRET = "Take the app key and the secret key from the same app."  # noqa: S105
ADVICE_PERMISSION = (
    "The connection is fine. If the app may not send or receive every name, "
    "allow it ensync/doctor, or leave it at that."
)
