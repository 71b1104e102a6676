"""What was sent, handed out and settled, and whether the promises about it were kept.

It keeps some bytes for each entry and no objects, so that it does not grow in a way
that would hide a leak of what it watches.
"""

from __future__ import annotations

import enum
import time
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

__all__ = ["Fate", "Ledger", "State", "StoredCopy", "Violation"]

MOST_EXAMPLES = 50
NOBODY, SEVERAL = 0, (1 << 32) - 1  # among readers, who are numbered from 1


class Fate(enum.IntEnum):
    """What the publisher was told."""

    NOT_SENT = 0
    UNKNOWN = 1  # so it stays when nobody waits for the answer
    ACCEPTED = 2
    REJECTED = 3


class State(enum.IntEnum):
    """What is known of a copy's settling."""

    OPEN = 0
    ACKNOWLEDGED = 1
    DISCARDED = 2


class Entry(enum.IntEnum):
    """What a journal tells of a copy."""

    SENT = 0
    ACCEPTED = 1
    REJECTED = 2
    LENT = 3
    HANDED_OUT = 4
    FINISHED = 5
    PUT_OFF = 6
    TOLD_THAT_IT_IS_SETTLED = 7
    ACKNOWLEDGED = 8
    DISCARDED = 9


class StoredCopy(NamedTuple):
    """What the engine's store says of a copy at the end."""

    number: int
    app_id: str
    idem: str
    state: State


class Violation(NamedTuple):
    """A promise that was broken."""

    kind: str
    text: str


class _Journal:
    """All entries as they came, so that a broken promise can be told with its story."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = clock()
        self._numbers = array("L")
        self._entries = array("L")  # by which reader, and what
        self._milliseconds = array("L")

    def add(self, number: int, what: Entry, reader: int = NOBODY) -> None:
        """Enters what happened to an event."""
        self._numbers.append(number)
        self._entries.append(reader * len(Entry) + what)
        self._milliseconds.append(round((self._clock() - self._began) * 1000))

    def story(self, number: int, readers: Sequence[str]) -> list[str]:
        """Everything about an event, a line each."""
        return [
            self._line(index, readers)
            for index, known in enumerate(self._numbers)
            if known == number
        ]

    def _line(self, index: int, readers: Sequence[str]) -> str:
        reader, what = divmod(self._entries[index], len(Entry))
        told = f"{self._milliseconds[index] / 1000:.3f} s: {Entry(what).name.lower()}"
        return f"{told} ({readers[reader]}, {reader})" if reader else told


class _Account:
    """What is known of the copies for one app, by number."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.journal = _Journal(clock)
        self.fates = bytearray()
        self.idems = array("q")  # hashed
        self.handed = array("L")  # how often
        self.finisher = array("L")  # the only reader who was ever done with it, or SEVERAL
        self.finished_by = array("L")  # the last reader, unless it was handed out since
        self.confirmed = bytearray()
        self.committed = bytearray()
        self.found = bytearray()

    def add(self, fate: Fate) -> None:
        """Opens a line for the next number."""
        self.fates.append(fate)
        for column in (self.idems, self.handed, self.finisher, self.finished_by):
            column.append(0)
        for flags in (self.confirmed, self.committed, self.found):
            flags.append(0)


class Ledger:
    """Books of all copies: one for each recipient of each event, under the event's number.

    Publishers, readers and the engine's store each enter what they see. What is wrong in
    itself is noted at once; ``compare`` does the rest, when everything has come to rest.
    A *reader* is one subscription, from entering to leaving.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        self._readers = ["nobody"]
        self._sent = 0
        self.counts: Counter[str] = Counter()
        self.broken: Counter[str] = Counter()
        self.examples: list[Violation] = []

    def add_app(self, app_id: str) -> None:
        """Opens an account; before anything is sent."""
        assert not self._sent
        self._accounts[app_id] = _Account(self._clock)

    def violate(self, kind: str, text: str, number: int = -1) -> None:
        """Notes a broken promise; about which event, if it is about one."""
        self.broken[kind] += 1
        if len(self.examples) < MOST_EXAMPLES:
            self.examples.append(Violation(kind, "\n    ".join([text, *self._story(number)])))

    def _story(self, number: int) -> Iterator[str]:
        for app_id, account in self._accounts.items():
            for line in account.journal.story(number, self._readers):
                yield f"{app_id[:6]} {line}"

    # Publishers

    def sending(self, recipients: Collection[str]) -> int:
        """Gives a number to an event that is about to be sent."""
        number, self._sent = self._sent, self._sent + 1
        for app_id, account in self._accounts.items():
            account.add(Fate.UNKNOWN if app_id in recipients else Fate.NOT_SENT)
            if app_id in recipients:
                account.journal.add(number, Entry.SENT)
        self.counts["sent"] += len(recipients)
        return number

    def answered(
        self, number: int, accepted: Mapping[str, str], rejected: Iterable[str] = ()
    ) -> None:
        """The publisher was told what became of some copies; the others stay unknown."""
        for app_id, idem in accepted.items():
            self.counts["accepted"] += 1
            self._accounts[app_id].fates[number] = Fate.ACCEPTED
            self._accounts[app_id].idems[number] = hash(idem)
            self._accounts[app_id].journal.add(number, Entry.ACCEPTED)
        for app_id in rejected:
            self.counts["rejected"] += 1
            self._accounts[app_id].fates[number] = Fate.REJECTED
            self._accounts[app_id].journal.add(number, Entry.REJECTED)

    @property
    def unknown(self) -> int:
        """How many copies nobody was told about."""
        return sum(account.fates.count(Fate.UNKNOWN) for account in self._accounts.values())

    # Readers

    def new_reader(self, name: str) -> int:
        """Numbers one more reader."""
        self._readers.append(name)
        return len(self._readers) - 1

    def handed_out(self, number: int, app_id: str, reader: int, *, unsure: bool = False) -> None:
        """A reader was given an event.

        Args:
            number: The event's.
            app_id: Whose copy it is.
            reader: Who was given it.
            unsure: Whether the reader can't know that the event is settled: it had no answer
                when it asked for that, or was refused. An engine that refuses what it did at
                an earlier request, whose answer was lost, makes a reader believe that the
                event is open.
        """
        if not self._was_sent(number, app_id):
            self.violate("invented", f"event {number} was handed out and never sent", number)
            return
        account = self._accounts[app_id]
        account.journal.add(number, Entry.HANDED_OUT, reader)
        self.counts["handed"] += 1
        self.counts["redelivered"] += bool(account.handed[number])
        account.handed[number] += 1
        settled = State(account.confirmed[number] or account.committed[number])
        if settled and unsure and not account.confirmed[number]:
            self.counts["settled unawares"] += 1
        elif settled and account.finished_by[number] == reader:
            text = f"event {number} was handed out again by the subscription that had it settled"
            self.violate("handed after settled", f"{text}: {settled.name}", number)
        elif settled:
            # It had been lent to another client, too, which had lost its connection.
            self.counts["stale copies"] += 1
        account.finished_by[number] = NOBODY

    def finished(self, number: int, app_id: str, reader: int) -> None:
        """A reader is done with an event: it may be settled from now on."""
        account = self._accounts[app_id]
        account.journal.add(number, Entry.FINISHED, reader)
        only = account.finisher[number] in (NOBODY, reader)
        account.finisher[number] = reader if only else SEVERAL
        account.finished_by[number] = reader

    def put_off(self, number: int, app_id: str, reader: int) -> None:
        """A reader is about to give an event back: what it did before does not count.

        What another reader did may count yet: its acknowledgement may be on the way.
        """
        account = self._accounts[app_id]
        account.journal.add(number, Entry.PUT_OFF, reader)
        self.counts["put off"] += 1
        if account.finisher[number] == reader:
            account.finisher[number] = NOBODY

    def confirmed(self, number: int, app_id: str, state: State) -> None:
        """A reader was told that the event is settled."""
        self._accounts[app_id].journal.add(number, Entry.TOLD_THAT_IT_IS_SETTLED)
        self.counts[f"confirmed {state.name.lower()}"] += 1
        self._accounts[app_id].confirmed[number] = state

    # The engine

    def lent(self, number: int, app_id: str) -> None:
        """The store has lent an event out."""
        self.counts["lent"] += 1
        if not self._was_sent(number, app_id):
            return  # it is noticed at the end
        self._accounts[app_id].journal.add(number, Entry.LENT)
        if self._accounts[app_id].committed[number]:
            self.violate(
                "handed after settled", f"the engine lent event {number} after settling", number
            )

    def committed(self, number: int, app_id: str, state: State) -> None:
        """The store has settled an event."""
        account = self._accounts[app_id]
        account.journal.add(number, Entry[state.name])
        self.counts[state.name.lower()] += 1
        if account.committed[number]:
            self.violate("settled twice", f"event {number} was settled twice", number)
        if account.finisher[number] == NOBODY:
            self.violate("settled unfinished", f"no reader was done with event {number}", number)
        account.committed[number] = state

    # The end

    def found(self, stored: Iterable[StoredCopy]) -> None:
        """Enters what the store contains, when nobody is at work any more."""
        for copy in stored:
            if self._was_sent(copy.number, copy.app_id):
                self._check_stored(copy)
            else:
                self.violate("invented", f"event {copy.number} is stored and was never sent")

    def compare(self) -> None:
        """Looks for what should have been found."""
        for account in self._accounts.values():
            self._check_account(account)

    def _check_stored(self, copy: StoredCopy) -> None:
        account, number = self._accounts[copy.app_id], copy.number
        if account.found[number]:
            self.violate("doubled", f"event {number} was sent once and is stored again", number)
        account.found[number] = True
        fate = account.fates[number]
        if fate == Fate.REJECTED:
            self.violate(
                "rejected and stored", f"event {number} was rejected and is stored", number
            )
        if fate == Fate.ACCEPTED and account.idems[number] != hash(copy.idem):
            self.violate("other id", f"event {number} was accepted under another id", number)
        if not account.handed[number]:
            self.violate("lost", f"event {number} is stored and was never handed out", number)
        if copy.state is State.OPEN:
            self._check_open(account, number)

    def _check_open(self, account: _Account, number: int) -> None:
        if account.confirmed[number] or account.committed[number]:
            self.violate("forgot settling", f"event {number} was settled and is open again", number)
        else:
            self.violate("left over", f"event {number} is still open", number)

    def _check_account(self, account: _Account) -> None:
        for number, fate in enumerate(account.fates):
            if account.found[number]:
                continue
            if fate == Fate.ACCEPTED:
                self.violate("lost", f"event {number} was accepted and is not stored", number)
            if account.handed[number]:
                self.violate("invented", f"event {number} was handed out and is not stored", number)

    def _was_sent(self, number: int, app_id: str) -> bool:
        if app_id not in self._accounts or not 0 <= number < self._sent:
            return False
        return self._accounts[app_id].fates[number] != Fate.NOT_SENT
