"""Counting the queues of a large data file reads indexes, and no event."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from ensync.server.sqlite_schema import upgrade
from ensync.server.sqlite_tables import Tables


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as opened:
        upgrade(opened, 0)
        yield opened


def test_counting_reads_covering_indexes_only(connection: sqlite3.Connection) -> None:
    statements: list[str] = []
    tables = Tables(connection, lambda: "idem")
    connection.set_trace_callback(statements.append)
    assert tables.count_open() == []
    assert tables.count_settled() == []
    connection.set_trace_callback(None)
    assert len(statements) == 2
    for statement in statements:
        steps = [str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
        (scan,) = [step for step in steps if "_events" in step]
        assert "USING COVERING INDEX" in scan
        assert not [step for step in steps if "TEMP B-TREE" in step]
