"""The statements: what a store asks of its tables.

Nothing here begins or commits a transaction. What is called together is committed
together, or not at all.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ensync.server.retention import Retention
from ensync.server.store import EventState, Found, NewEvent, QueueKey, StoredEvent

__all__ = ["DueEvent", "Inserted", "OpenEvent", "Page", "PageLimit", "SettledTotal", "Tables"]

# Names come from clients, so what is remembered of them has to be bounded.
_REMEMBERED_QUEUES = 10_000

# How much is done at once, so that the event loop is not held up.
_CHUNK = 1_000

# The columns of an event, and where they come from. CROSS JOIN keeps SQLite from turning
# the order of the tables around: the first is the one to search.
_STORED = (
    "SELECT e.idem, e.block, e.logged_at_ms, q.app_id, q.event_name, e.sender, e.payload,"
    " e.metadata, e.payload_metadata, e.persist, e.ttl_ms"
)
_OPEN = (
    f"{_STORED}, o.attempts, o.due_ms FROM open_events o"
    " CROSS JOIN events e ON e.block = o.block CROSS JOIN queues q ON q.id = o.queue"
)
_KEPT = (
    f"{_STORED}, s.state FROM events e JOIN queues q ON q.id = e.queue"
    " LEFT JOIN settled_events s ON s.block = e.block"
)
_STORED_COLUMNS = 11


class Inserted(NamedTuple):
    """A stored event, and whether it was stored just now."""

    stored: StoredEvent
    is_new: bool


class OpenEvent(NamedTuple):
    """An event that is not settled. ``due_ms`` is 0 for one that is not deferred."""

    stored: StoredEvent
    attempts: int
    due_ms: int


class DueEvent(NamedTuple):
    """A deferred event whose time has come."""

    queue: QueueKey
    block: int


class PageLimit(NamedTuple):
    """How much to read at once."""

    events: int = 256
    bytes: int = 4 << 20


class Page(NamedTuple):
    """Some events of a queue that wait, in block order."""

    events: list[OpenEvent]
    is_last: bool
    """Whether there are none behind these."""


class SettledTotal(NamedTuple):
    """What is kept of settled events."""

    events: int
    bytes: int


class Tables:
    """The tables of a data file."""

    def __init__(self, connection: sqlite3.Connection, new_idem: Callable[[], str]) -> None:
        self._execute = connection.execute
        self._execute_many = connection.executemany
        self._new_idem = new_idem
        self._queue_ids: dict[QueueKey, int] = {}
        self._next_block = self._first_free_block()

    def forget_cached(self) -> None:
        """To be called after a rollback: what was learnt within it may not be so."""
        self._queue_ids.clear()

    # Storing

    def insert(self, event: NewEvent, now_ms: int, attempt_name: str | None) -> Inserted:
        """Stores an event, or finds the one that the same attempt has stored."""
        if attempt_name is not None:
            known = self._stored_by(attempt_name)
            if known is not None:
                return Inserted(known, is_new=False)
        stored = StoredEvent(self._new_idem(), self._next_block, now_ms, event)
        self._insert(stored)
        self._next_block += 1
        if attempt_name is not None:
            self._execute(
                "INSERT OR REPLACE INTO publish_attempts (name, block) VALUES (?, ?)",
                (attempt_name, stored.block),
            )
        return Inserted(stored, is_new=True)

    def _insert(self, stored: StoredEvent) -> None:
        event = stored.event
        queue = self._queue_id(event.queue)
        self._execute(
            "INSERT INTO events (block, idem, queue, sender, payload, metadata,"
            " payload_metadata, persist, logged_at_ms, ttl_ms)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                stored.block,
                stored.idem,
                queue,
                event.sender,
                event.payload,
                event.metadata,
                event.payload_metadata,
                event.persist,
                stored.logged_at_ms,
                event.ttl_ms,
            ),
        )
        expires_at_ms = 0 if event.ttl_ms is None else stored.logged_at_ms + event.ttl_ms
        self._execute(
            "INSERT INTO open_events (queue, due_ms, block, attempts, expires_at_ms)"
            " VALUES (?, 0, ?, 0, ?)",
            (queue, stored.block, expires_at_ms),
        )

    def _stored_by(self, attempt_name: str) -> StoredEvent | None:
        row = self._execute(
            _STORED + " FROM publish_attempts a JOIN events e ON e.block = a.block"
            " JOIN queues q ON q.id = e.queue WHERE a.name = ?",
            (attempt_name,),
        ).fetchone()
        return None if row is None else _stored(row)

    # Open events

    def page(self, queue: QueueKey, after_block: int, limit: PageLimit) -> Page:
        """Events that wait or are lent out, with a block above the given one."""
        rows = self._execute(
            _OPEN + " WHERE o.queue = ? AND o.due_ms = 0 AND o.block > ? ORDER BY o.block LIMIT ?",
            (self._queue_id(queue), after_block, limit.events),
        )
        events: list[OpenEvent] = []
        bytes_left = limit.bytes
        for row in rows:
            events.append(_open(row))
            bytes_left -= events[-1].stored.event.size
            if bytes_left <= 0:
                rows.close()
                return Page(events, is_last=False)
        return Page(events, is_last=len(events) < limit.events)

    def open_event(self, idem: str) -> OpenEvent | None:
        """An event that is not settled."""
        row = self._execute(
            _OPEN + " WHERE o.block = (SELECT block FROM events WHERE idem = ?)",  # noqa: S608
            (idem,),
        ).fetchone()
        return None if row is None else _open(row)

    def settle(self, stored: StoredEvent, state: EventState, reason: str, now_ms: int) -> int:
        """Settles an event; returns how many bytes are kept of it."""
        self._execute("DELETE FROM open_events WHERE block = ?", (stored.block,))
        size = stored.event.size if stored.event.persist else 0
        self._execute(
            "INSERT INTO settled_events (block, queue, state, reason, settled_at_ms, size)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (
                stored.block,
                self._queue_id(stored.event.queue),
                state.value,
                reason,
                now_ms,
                size,
            ),
        )
        if not stored.event.persist:
            self._execute(
                "UPDATE events SET payload = '', metadata = '{}', payload_metadata = NULL"
                " WHERE block = ?",
                (stored.block,),
            )
        return size

    def set_due(self, stored: StoredEvent, due_ms: int, attempts: int) -> None:
        """Defers an event, or makes it wait with the others (0)."""
        self._execute(
            "UPDATE open_events SET due_ms = ?, attempts = ? WHERE block = ?",
            (due_ms, attempts, stored.block),
        )

    def set_attempts(self, attempts: Iterable[tuple[int, int]]) -> None:
        """Notes how often events have been taken, by their blocks."""
        self._execute_many(
            "UPDATE open_events SET attempts = ? WHERE block = ?",
            [(count, block) for block, count in attempts],
        )

    # Times

    def bring_back_due(self, now_ms: int) -> list[DueEvent]:
        """Makes deferred events wait with the others, if they are due. Not all at once."""
        rows = self._execute(
            "SELECT o.block, q.app_id, q.event_name FROM open_events o"
            " JOIN queues q ON q.id = o.queue"
            " WHERE o.due_ms > 0 AND o.due_ms <= ? ORDER BY o.due_ms LIMIT ?",
            (now_ms, _CHUNK),
        ).fetchall()
        self._execute_many(
            "UPDATE open_events SET due_ms = 0 WHERE block = ?", [row[:1] for row in rows]
        )
        return [DueEvent(QueueKey(app_id, event_name), block) for block, app_id, event_name in rows]

    def next_due_ms(self) -> int | None:
        """When the first deferred event is due."""
        row = self._execute("SELECT min(due_ms) FROM open_events WHERE due_ms > 0").fetchone()
        due_ms: int | None = row[0]
        return due_ms

    def expired(self, now_ms: int, besides: int) -> list[OpenEvent]:
        """Events that are not settled, and whose time to live is over. Not all at once.

        Args:
            now_ms: The time.
            besides: How many to return more, because that many are of no interest.
        """
        rows = self._execute(
            _OPEN + " WHERE o.expires_at_ms > 0 AND o.expires_at_ms <= ? LIMIT ?",
            (now_ms, _CHUNK + besides),
        )
        return [_open(row) for row in rows]

    # Looking

    def find(self, idem: str) -> Found | None:
        """An event, settled or not."""
        row = self._execute(
            _KEPT + " WHERE e.idem = ?",
            (idem,),
        ).fetchone()
        return None if row is None else _found(row)

    def browse(self, queue: QueueKey) -> list[Found]:
        """Everything that is kept of a queue."""
        rows = self._execute(
            _KEPT + " WHERE q.app_id = ? AND q.event_name = ? ORDER BY e.block",
            queue,
        )
        return [_found(row) for row in rows]

    def count_open(self) -> list[tuple[QueueKey, int, int]]:
        """How many events of each queue are not deferred, and are deferred."""
        rows = self._execute(
            "SELECT q.app_id, q.event_name, c.events - c.deferred, c.deferred FROM ("
            "SELECT queue, count(*) AS events, sum(due_ms > 0) AS deferred FROM open_events"
            " GROUP BY queue) c JOIN queues q ON q.id = c.queue"
        )
        return [(QueueKey(app_id, name), ready, deferred) for app_id, name, ready, deferred in rows]

    def count_settled(self) -> list[tuple[QueueKey, EventState, int]]:
        """How many settled events of each queue are kept, by what became of them."""
        rows = self._execute(
            "SELECT q.app_id, q.event_name, c.state, c.events FROM ("
            "SELECT queue, state, count(*) AS events FROM settled_events"
            " GROUP BY queue, state) c JOIN queues q ON q.id = c.queue"
        )
        return [(QueueKey(app_id, name), EventState(state), n) for app_id, name, state, n in rows]

    # Forgetting

    def settled_total(self) -> SettledTotal:
        """Counts the settled events."""
        row = self._execute("SELECT count(*), total(size) FROM settled_events").fetchone()
        return SettledTotal(int(row[0]), int(row[1]))

    def forget_settled(
        self, total: SettledTotal, retention: Retention, now_ms: int
    ) -> SettledTotal:
        """Forgets the oldest settled events that exceed what is to be kept. Not all at once.

        Returns:
            What has been forgotten.
        """
        blocks: list[tuple[int]] = []
        events, size = total
        for block, event_size, settled_at_ms in self._execute(
            "SELECT block, size, settled_at_ms FROM settled_events ORDER BY position LIMIT ?",
            (_CHUNK,),
        ):
            too_many = retention.is_exceeded(events, size)
            if not too_many and not retention.is_over(settled_at_ms, now_ms):
                break
            blocks.append((block,))
            events, size = events - 1, size - event_size
        self._forget(blocks)
        return SettledTotal(total.events - events, total.bytes - size)

    def _forget(self, blocks: list[tuple[int]]) -> None:
        if blocks:
            self._execute_many("DELETE FROM settled_events WHERE block = ?", blocks)
            self._execute_many("DELETE FROM events WHERE block = ?", blocks)
            self._execute_many("DELETE FROM publish_attempts WHERE block = ?", blocks)

    # Names

    def _queue_id(self, queue: QueueKey) -> int:
        known = self._queue_ids.get(queue)
        if known is not None:
            return known
        self._execute(
            "INSERT INTO queues (app_id, event_name) VALUES (?, ?) ON CONFLICT DO NOTHING", queue
        )
        [found] = self._execute(
            "SELECT id FROM queues WHERE app_id = ? AND event_name = ?", queue
        ).fetchone()
        if len(self._queue_ids) >= _REMEMBERED_QUEUES:
            self._queue_ids.clear()
        self._queue_ids[queue] = int(found)
        return int(found)

    def _first_free_block(self) -> int:
        row = self._execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
        return 0 if row is None else int(row[0]) + 1


def _stored(row: tuple[Any, ...]) -> StoredEvent:
    idem, block, logged_at_ms, app_id, event_name, *rest = row
    sender, payload, metadata, payload_metadata, persist, ttl_ms = rest
    queue = QueueKey(app_id, event_name)
    event = NewEvent(queue, sender, payload, metadata, payload_metadata, bool(persist), ttl_ms)
    return StoredEvent(idem, block, logged_at_ms, event)


def _open(row: tuple[Any, ...]) -> OpenEvent:
    return OpenEvent(_stored(row[:_STORED_COLUMNS]), row[-2], row[-1])


def _found(row: tuple[Any, ...]) -> Found:
    state = EventState.OPEN if row[-1] is None else EventState(row[-1])
    return Found(_stored(row[:_STORED_COLUMNS]), state)
