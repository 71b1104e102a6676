"""The tables of a data file, and how an older file becomes one of today.

A file knows how many of the steps below it has been through. A new file goes
through all of them, so an upgraded one and a new one can't differ.
"""

from __future__ import annotations

import sqlite3

__all__ = ["APPLICATION_ID", "STEPS", "VERSION", "upgrade"]

# "ENSy", so that another program's database is not taken for one of ours.
APPLICATION_ID = 0x454E5379

_STEP_1 = (
    """
    CREATE TABLE apps (
        position INTEGER PRIMARY KEY,
        app_id TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL,
        key_hash TEXT NOT NULL,
        send TEXT NOT NULL,
        receive TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE queues (
        id INTEGER PRIMARY KEY,
        app_id TEXT NOT NULL,
        event_name TEXT NOT NULL,
        UNIQUE (app_id, event_name)
    )
    """,
    # AUTOINCREMENT: a block is never used again, also when the last event is forgotten.
    """
    CREATE TABLE events (
        block INTEGER PRIMARY KEY AUTOINCREMENT,
        idem TEXT NOT NULL UNIQUE,
        queue INTEGER NOT NULL,
        sender TEXT NOT NULL,
        payload TEXT NOT NULL,
        metadata TEXT NOT NULL,
        payload_metadata TEXT,
        persist INTEGER NOT NULL,
        logged_at_ms INTEGER NOT NULL
    )
    """,
    "CREATE INDEX events_of_queue ON events (queue)",
    # What waits, is lent out or is deferred (due_ms > 0). Apart from the events, so that
    # handing out and settling does not write their payloads anew.
    """
    CREATE TABLE open_events (
        block INTEGER PRIMARY KEY,
        queue INTEGER NOT NULL,
        due_ms INTEGER NOT NULL,
        attempts INTEGER NOT NULL
    )
    """,
    "CREATE INDEX open_events_in_order ON open_events (queue, due_ms, block)",
    "CREATE INDEX open_events_due ON open_events (due_ms) WHERE due_ms > 0",
    """
    CREATE TABLE settled_events (
        position INTEGER PRIMARY KEY,
        block INTEGER NOT NULL UNIQUE,
        queue INTEGER NOT NULL,
        state TEXT NOT NULL,
        reason TEXT NOT NULL,
        settled_at_ms INTEGER NOT NULL,
        size INTEGER NOT NULL
    )
    """,
    "CREATE INDEX settled_events_by_state ON settled_events (queue, state)",
    """
    CREATE TABLE publish_attempts (
        name TEXT PRIMARY KEY,
        block INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
    "CREATE INDEX publish_attempts_of_event ON publish_attempts (block)",
)

_STEP_2 = (
    "ALTER TABLE events ADD COLUMN ttl_ms INTEGER",
    "ALTER TABLE open_events ADD COLUMN expires_at_ms INTEGER NOT NULL DEFAULT 0",
    "CREATE INDEX open_events_expiring ON open_events (expires_at_ms) WHERE expires_at_ms > 0",
)

STEPS = (_STEP_1, _STEP_2)
VERSION = len(STEPS)


def upgrade(connection: sqlite3.Connection, version: int) -> None:
    """Takes a file of an older version through the steps that it lacks.

    To be called within a transaction: a file is upgraded as a whole or not at all.
    """
    for step in STEPS[version:]:
        for statement in step:
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
