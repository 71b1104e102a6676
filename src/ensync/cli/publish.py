"""``ensync publish``: one event, or one for each line of standard input."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import anyio.to_thread
import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ensync.cli.connecting import client_for_once
from ensync.cli.failures import NOT_PUBLISHED, WRONG_USE, CommandError
from ensync.cli.output import complain, note, print_json, to_stderr
from ensync.cli.running import run_async
from ensync.cli.settings import APP_KEY, URL, AppKeyOption, Settings, UrlOption
from ensync.client import EnSyncClient
from ensync.event import OutgoingEvent, PublishOutcome
from ensync.json_text import as_object, decode_json

__all__ = ["publish_command"]

SELF = "self"


class Target(NamedTuple):
    """What all events of one run have in common."""

    event_name: str
    app_ids: tuple[str, ...]
    metadata: dict[str, Any] | None

    def event(self, payload: object, line: int = 0) -> OutgoingEvent:
        return OutgoingEvent(self.event_name, self.app_ids, payload, self.metadata, key=line)


def publish_command(
    event_name: Annotated[str, typer.Argument(help="The name to publish under.")],
    payload: Annotated[
        str | None, typer.Argument(help="JSON. Without it, and without --file: standard input.")
    ] = None,
    *,
    to: Annotated[
        list[str] | None,
        typer.Option(
            help="Needed: app id of a recipient, or 'self'; again for more.", show_default=False
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Read the payload, JSON, from this file.")
    ] = None,
    metadata: Annotated[str | None, typer.Option(help="A JSON object, sent in the clear.")] = None,
    url: UrlOption = None,
    app_key: AppKeyOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Publish an event, and print its id.

    Standard input holds one JSON value on each line, and each becomes an event. The ids are
    printed as the events are accepted; a line that is not is reported, and the others go on.
    """

    async def run() -> None:
        if payload is not None and file is not None:
            raise CommandError("give a payload or --file, not both", WRONG_USE)
        wanted = _metadata(metadata)
        single = _single_payload(payload, file)
        async with client_for_once(Settings({URL: url, APP_KEY: app_key})) as client:
            target = Target(event_name, _recipients(to, client), wanted)
            if single is None:
                await _publish_lines(client, target, as_json=json)
            else:
                receipt = await client.publish(event_name, target.app_ids, single.value, wanted)
                _print_ids(receipt.event_ids, as_json=json)

    run_async(run)


class _Payload(NamedTuple):
    value: Any


def _single_payload(text: str | None, file: Path | None) -> _Payload | None:
    if file is not None:
        return _Payload(_parsed(_text_of(file), str(file)))
    return None if text is None else _Payload(_parsed(text, "the payload"))


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CommandError(f"{file} is not UTF-8 text", WRONG_USE) from error


def _parsed(text: str, what: str) -> Any:
    try:
        return decode_json(text)
    except ValueError as error:
        raise CommandError(f"{what} is not JSON: {error}", WRONG_USE) from error


def _metadata(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    value = as_object(_parsed(text, "--metadata"))
    if value is None:
        raise CommandError("--metadata must be a JSON object", WRONG_USE)
    return value


def _recipients(to: list[str] | None, client: EnSyncClient) -> tuple[str, ...]:
    if not to:
        raise CommandError("to whom? Give --to APP_ID, or --to self", WRONG_USE)
    return tuple(client.app_id if app_id == SELF else app_id for app_id in to)


class _Lines:
    """Standard input as events. Lines that are no JSON are reported and left out.

    Attributes:
        bad: How many were left out.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self.bad = 0

    async def events(self) -> AsyncGenerator[OutgoingEvent]:
        number = 0
        while line := await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            number += 1
            if not line.strip():
                continue
            try:
                yield self._target.event(decode_json(line), number)
            except ValueError as error:
                self.bad += 1
                complain(f"line {number} is not JSON: {error}")


async def _publish_lines(client: EnSyncClient, target: Target, *, as_json: bool) -> None:
    lines = _Lines(target)
    accepted = failed = 0
    with _progress() as show:
        async with aclosing(lines.events()) as events, client.publish_many(events) as outcomes:
            async for outcome in outcomes:
                if _report(outcome, as_json=as_json):
                    accepted += 1
                else:
                    failed += 1
                show(accepted, failed + lines.bad)
    failed += lines.bad
    note(f"{accepted} published, {failed} not")
    if failed:
        raise CommandError(f"{failed} events were not published", NOT_PUBLISHED)


def _report(outcome: PublishOutcome, *, as_json: bool) -> bool:
    line = outcome.event.key
    if outcome.receipt is None:
        complain(f"line {line}: {outcome.error}")
        return False
    if as_json:
        print_json({"line": line, "event_ids": dict(outcome.receipt.event_ids)})
    else:
        typer.echo(str(outcome.receipt))
    return True


def _print_ids(event_ids: Mapping[str, str], *, as_json: bool) -> None:
    if as_json:
        print_json({"event_ids": dict(event_ids)})
    else:
        typer.echo(",".join(event_ids.values()))


@contextmanager
def _progress() -> Generator[Callable[[int, int], None]]:
    """Shows on standard error how many were published and how many were not."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    hidden = not to_stderr.is_terminal
    with Progress(*columns, console=to_stderr, transient=True, disable=hidden) as progress:
        bar = progress.add_task("waiting for lines", total=None)

        def show(accepted: int, failed: int) -> None:
            progress.update(bar, description=f"{accepted:,} published, {failed:,} not")

        yield show
