"""Opening a data file, and all that may be wrong with it."""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ensync.errors import EnSyncGenericError, EnSyncValidationError
from ensync.server.apps import AppRegistry
from ensync.server.sqlite_apps import SqliteAppStorage, open_app_storage
from ensync.server.sqlite_file import SqliteFile
from ensync.server.sqlite_schema import APPLICATION_ID, STEPS, VERSION
from ensync.server.sqlite_tables import PageLimit, Tables
from ensync.server.store import EventState, NewEvent, QueueKey

BILLING = QueueKey("app-b", "orders/paid")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


def make_file(path: Path, apps: int = 1) -> None:
    with open_app_storage(path) as storage:
        registry = AppRegistry(storage)
        for number in range(apps):
            registry.create(f"app {number}")


def refusal(path: Path) -> EnSyncGenericError:
    with pytest.raises(EnSyncGenericError) as caught:
        SqliteFile(path)
    assert str(path) in str(caught.value)
    return caught.value


def test_a_new_file_is_made(path: Path) -> None:
    SqliteFile(path).close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.skipif(sys.platform == "win32", reason="is about Unix permissions")
def test_a_new_file_is_for_this_user_alone(path: Path) -> None:
    with closing(SqliteFile(path)) as file:
        AppRegistry(SqliteAppStorage(file)).create("billing")
        modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert modes == dict.fromkeys(("events.db", "events.db-wal"), 0o600)


def test_a_file_that_was_there_keeps_its_permissions(path: Path) -> None:
    make_file(path)
    path.chmod(0o640)
    make_file(path, apps=0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("was_there", [True, False])
def test_a_start_that_fails_leaves_no_file_behind(
    path: Path, monkeypatch: pytest.MonkeyPatch, was_there: bool
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("ensync.server.sqlite_file.upgrade", full)
    if was_there:
        path.touch()
    assert "disk is full" in str(refusal(path))
    assert os.listdir(path.parent) == ([path.name] if was_there else [])


def test_an_empty_file_becomes_a_data_file(path: Path) -> None:
    path.touch()
    SqliteFile(path).close()
    SqliteFile(path).close()


def test_commits_wait_for_the_disk(path: Path) -> None:
    full = 2
    with closing(SqliteFile(path)) as file:
        assert file.connection.execute("PRAGMA synchronous").fetchone() == (full,)


def test_a_second_engine_on_the_file_is_refused(path: Path) -> None:
    with closing(SqliteFile(path)):
        error = refusal(path)
    assert error.code == "data_in_use"
    assert "in use" in str(error)
    SqliteFile(path).close()


def test_a_directory_is_refused(tmp_path: Path) -> None:
    error = refusal(tmp_path)
    assert error.code == "data_unusable"
    assert "it is a directory" in str(error)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    error = refusal(tmp_path / "missing" / "events.db")
    assert f"there is no directory {tmp_path / 'missing'}" in str(error)


def test_a_file_that_can_not_be_made_is_refused() -> None:
    assert refusal(Path("/proc/events.db")).code == "data_unusable"


@contextmanager
def as_another_user() -> Iterator[None]:
    """Root may write everywhere, so it becomes somebody else for a while."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that other users can get into, unlike pytest's."""
    with TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


@pytest.mark.skipif(sys.platform == "win32", reason="is about Unix permissions")
def test_a_file_that_can_not_be_written_is_refused_and_left_alone(shared: Path) -> None:
    path = shared / "events.db"
    make_file(path)
    path.chmod(0o444)
    before = path.read_bytes()
    with as_another_user():
        error = refusal(path)
    assert error.code == "data_unusable"
    assert "no permission to read and write it" in str(error)
    assert path.read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="is about Unix permissions")
@pytest.mark.parametrize("exists", [True, False])
def test_a_directory_that_can_not_be_written_is_named(shared: Path, exists: bool) -> None:
    path = shared / "events.db"
    if exists:
        make_file(path)
        path.chmod(0o666)
    shared.chmod(0o555)
    with as_another_user():
        error = refusal(path)
    assert f"no permission to write to its directory, {shared}" in str(error)


def test_a_foreign_database_is_refused_and_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    before = path.read_bytes()
    assert "not a data file of an engine" in str(refusal(path))
    assert path.read_bytes() == before


def test_a_text_file_is_refused_and_left_alone(path: Path) -> None:
    path.write_text("Dear diary,\n" * 1000)
    before = path.read_bytes()
    assert refusal(path).code == "data_damaged"
    assert path.read_bytes() == before


def test_a_file_of_a_later_version_is_refused_and_left_alone(path: Path) -> None:
    make_file(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    before = path.read_bytes()
    error = refusal(path)
    assert error.code == "data_newer"
    assert f"format {VERSION + 1}" in str(error)
    assert path.read_bytes() == before


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xff" * 4096 * 3)


def cut_short(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(5 * 4096)


def without_its_beginning(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\0" * 100)


@pytest.mark.parametrize("damage", [overwritten, cut_short, without_its_beginning])
def test_a_damaged_file_is_refused(path: Path, damage: Callable[[Path], None]) -> None:
    make_file(path, apps=50)
    damage(path)
    before = path.read_bytes()
    assert refusal(path).code == "data_damaged"
    assert path.read_bytes() == before


def test_an_older_file_is_upgraded(path: Path) -> None:
    """Version 1 knew no time to live."""
    with closing(sqlite3.connect(path)) as connection:
        for statement in STEPS[0]:
            connection.execute(statement)
        connection.execute("PRAGMA user_version = 1")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("INSERT INTO queues VALUES (7, 'app-b', 'orders/paid')")
        connection.execute(
            "INSERT INTO events VALUES (41, 'idem-1', 7, 'app-a', 'p', '{}', NULL, 1, 1000)"
        )
        connection.execute("INSERT INTO open_events VALUES (41, 7, 0, 3)")
        connection.commit()
    with closing(SqliteFile(path)) as file:
        tables = Tables(file.connection, lambda: "idem-2")
        found = tables.find("idem-1")
        assert found is not None
        assert found.state is EventState.OPEN
        assert found.stored.event == NewEvent(BILLING, "app-a", "p", "{}")
        event = tables.open_event("idem-1")
        assert event is not None
        assert event.attempts == 3
        assert tables.insert(NewEvent(BILLING, "a", "p", "{}", None, True, 5), 0, None).is_new
        assert [each.block for each, _, _ in tables.page(BILLING, -1, PageLimit()).events] == [
            41,
            42,
        ]


def test_apps_are_kept(path: Path) -> None:
    with open_app_storage(path) as storage:
        registry = AppRegistry(storage)
        billing = registry.create("billing", send=["orders/paid"], receive=["a", "b"])
        gone = registry.create("gone")
        shop = registry.create("shop")
        new_key = registry.rotate(billing.app_id)
        registry.remove(gone.app_id)
        before = registry.list()
    with open_app_storage(path) as storage:
        registry = AppRegistry(storage)
        assert registry.list() == before
        assert [record.name for record in registry.list()] == ["billing", "shop"]
        record = registry.authenticate(new_key)
        assert record is not None
        assert record.app_id == billing.app_id
        assert record.receive == {"a", "b"}
        assert registry.authenticate(billing.app_key) is None
        assert registry.authenticate(shop.app_key) is not None
        with pytest.raises(EnSyncValidationError, match="already an app named"):
            registry.create("shop")


def test_no_secret_is_in_the_file(path: Path) -> None:
    with open_app_storage(path) as storage:
        app = AppRegistry(storage).create("billing")
    content = path.read_bytes()
    assert app.app_key.encode() not in content
    assert app.secret_key.encode() not in content


def test_an_app_that_can_not_be_saved_is_not_known(path: Path) -> None:
    with closing(SqliteFile(path)) as file:
        registry = AppRegistry(SqliteAppStorage(file))
        registry.create("first")
        file.connection.execute("PRAGMA max_page_count = 1")  # as many as there are
        with pytest.raises(EnSyncGenericError, match="disk is full") as caught:
            for number in range(1000):
                registry.create(f"app {number}" + "x" * 180)
        assert caught.value.code == "data_disk_full"
        names = [record.name for record in registry.list()]
    with open_app_storage(path) as storage:
        assert [record.name for record in storage.load()] == names


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, GeneratorExit])
def test_a_change_that_is_interrupted_is_not_made_and_keeps_out_no_other(
    path: Path, error: type[BaseException]
) -> None:
    with closing(SqliteFile(path)) as file:
        with pytest.raises(error), file.short_transaction() as connection:
            connection.execute("INSERT INTO apps VALUES (1, 'id', 'half', '', '[]', '[]')")
            raise error
        AppRegistry(SqliteAppStorage(file)).create("whole")
    with open_app_storage(path) as storage:
        assert [record.name for record in storage.load()] == ["whole"]


def test_a_change_that_can_not_even_begin_is_told_as_others_are(path: Path) -> None:
    file = SqliteFile(path)
    file.close()
    with (
        pytest.raises(EnSyncGenericError, match="can't be used: Cannot operate on a closed"),
        file.short_transaction(),
    ):
        pytest.fail("a change to a closed file")
