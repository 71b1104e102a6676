"""An event for each line of standard input, and what to tell about all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, contextmanager
from typing import Any, NamedTuple

import anyio
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ensync.cli.failures import NOT_PUBLISHED, UNREACHABLE, CommandError
from ensync.cli.json_input import json_line
from ensync.cli.output import complain, note, print_json, print_line, to_stderr
from ensync.cli.running import reason_of
from ensync.cli.standard_input import StandardInput
from ensync.cli.wording import counted
from ensync.client import EnSyncClient
from ensync.connection import ClientState
from ensync.event import OutgoingEvent, PublishOutcome
from ensync.scopes import background_tasks

__all__ = ["Target", "publish_lines"]


class Target(NamedTuple):
    """What all events of one run have in common."""

    event_name: str
    app_ids: tuple[str, ...]
    metadata: dict[str, Any] | None

    def event(self, payload: object, line: int) -> OutgoingEvent:
        """The event that a line becomes."""
        return OutgoingEvent(self.event_name, self.app_ids, payload, self.metadata, key=line)


async def publish_lines(client: EnSyncClient, target: Target, *, as_json: bool) -> None:
    """Publishes an event for each line, until there are no more or the engine is gone for good.

    Raises:
        CommandError: Not every line became an event.
    """
    source = StandardInput()
    run = _Run(client, source, target, as_json=as_json)
    if source.is_terminal:
        note("one JSON value a line; Ctrl-D ends")
    try:
        with _progress(source) as show:
            await run.publish(show)
    except BaseException:
        note(run.summary())
        raise
    run.tell_repeated()
    if run.engine_is_gone:
        raise CommandError(f"{run.summary()}; {_left(await source.count_left())}", UNREACHABLE)
    if run.failed:
        raise CommandError(run.summary(), NOT_PUBLISHED)
    note(run.summary())


def _left(lines: int | None) -> str:
    if lines is None:
        return "the rest of the input was not read"
    return f"{counted(lines, 'line')} left" if lines else "no line left"


class _Run:
    """What came of the lines so far.

    Attributes:
        accepted: How many became events.
        failed: How many certainly or possibly did not.
    """

    def __init__(
        self, client: EnSyncClient, source: StandardInput, target: Target, *, as_json: bool
    ) -> None:
        self._client = client
        self._source = source
        self._target = target
        self._as_json = as_json
        self._under_way = 0
        self._reasons: Counter[str] = Counter()
        self.accepted = 0
        self.failed = 0

    @property
    def engine_is_gone(self) -> bool:
        """Whether the client has given up on the engine, so that nothing can be published."""
        return self._client.state is ClientState.CLOSED

    async def publish(self, show: Callable[[int, int], None]) -> None:
        async with background_tasks() as tasks:
            tasks.start_soon(self._end_when_gone, tasks.cancel_scope)
            async with (
                aclosing(self._events()) as events,
                self._client.publish_many(events) as outcomes,
            ):
                async for outcome in outcomes:
                    self._under_way -= 1
                    self._report(outcome)
                    show(self.accepted, self.failed)
                    # The input may stay open for ever.
                    if self.engine_is_gone and not self._under_way:
                        return

    async def _end_when_gone(self, scope: anyio.CancelScope) -> None:
        async for _ in self._client.states():
            """Until it is closed."""
        if not self._under_way:  # else there are outcomes to come
            scope.cancel()

    def summary(self) -> str:
        unanswered = f", {self._under_way:,} without an answer" if self._under_way else ""
        return f"{self.accepted:,} published, {self.failed:,} not{unanswered}"

    def tell_repeated(self) -> None:
        for reason, count in self._reasons.items():
            if count > 1:
                complain(f"{counted(count - 1, 'more line')}: {reason}")

    async def _events(self) -> AsyncGenerator[OutgoingEvent]:
        async with aclosing(self._source.lines()) as lines:
            async for line in lines:
                if self.engine_is_gone:
                    self._source.taken -= 1
                    return
                if not line.strip():
                    continue
                number = self._source.taken
                try:
                    payload = json_line(line.decode())
                except UnicodeDecodeError:
                    self._fail(number, "not UTF-8 text")
                except ValueError as error:
                    self._fail(number, f"not JSON: {error}")
                else:
                    self._under_way += 1
                    yield self._target.event(payload, number)

    def _report(self, outcome: PublishOutcome) -> None:
        line = outcome.event.key
        if outcome.error is not None:
            self._fail(line, reason_of(outcome.error))
            return
        assert outcome.receipt is not None
        self.accepted += 1
        if self._as_json:
            print_json({"line": line, "event_ids": dict(outcome.receipt.event_ids)})
        else:
            print_line(str(outcome.receipt))

    def _fail(self, line: object, reason: str) -> None:
        self.failed += 1
        self._reasons[reason] += 1
        # The same for each of thousands of lines is told once, and counted at the end.
        if self._reasons[reason] == 1:
            complain(f"line {line}: {reason}")


@contextmanager
def _progress(source: StandardInput) -> Generator[Callable[[int, int], None]]:
    """Shows on standard error how many were published and how many were not."""
    hidden = source.is_terminal or not to_stderr.is_terminal
    how_far = SpinnerColumn() if source.total_bytes is None else BarColumn()
    columns = (how_far, TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=to_stderr, transient=True, disable=hidden) as progress:
        bar = progress.add_task("waiting for lines", total=source.total_bytes)

        def show(accepted: int, failed: int) -> None:
            description = f"{accepted:,} published, {failed:,} not"
            progress.update(bar, description=description, completed=source.read_bytes)

        yield show
