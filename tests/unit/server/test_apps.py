from __future__ import annotations

import pytest

from ensync.crypto import SecretKey, parse_app_id
from ensync.errors import EnSyncValidationError
from ensync.server.apps import App, AppRegistry, MemoryAppStorage


def test_an_app_has_keys_that_fit() -> None:
    app = AppRegistry().create("billing")
    parse_app_id(app.app_id)
    assert SecretKey.parse(app.secret_key).app_id == app.app_id
    assert len(app.app_key) > 30


def test_each_app_has_its_own_keys() -> None:
    apps = AppRegistry()
    made = [apps.create(f"app {number}") for number in range(10)]
    for part in ("app_id", "app_key", "secret_key"):
        assert len({getattr(app, part) for app in made}) == 10


def test_secrets_are_not_shown() -> None:
    app = AppRegistry().create("billing")
    for text in (repr(app), str(app), f"{app}"):
        assert app.app_key not in text
        assert app.secret_key not in text
        assert app.app_id in text


def test_secrets_are_not_kept() -> None:
    storage = MemoryAppStorage()
    app = AppRegistry(storage).create("billing")
    [record] = storage.load()
    assert app.app_key not in repr(record)
    assert app.secret_key not in repr(record)


def test_a_key_authenticates_its_app() -> None:
    apps = AppRegistry()
    billing, shop = apps.create("billing"), apps.create("shop")
    for app in (billing, shop):
        record = apps.authenticate(app.app_key)
        assert record is not None
        assert record.app_id == app.app_id
    for wrong in ("", "nonsense", billing.app_id, billing.secret_key, "\ud800"):
        assert apps.authenticate(wrong) is None


def test_permissions() -> None:
    apps = AppRegistry()
    narrow = apps.get(apps.create("narrow", send=["a", "b"], receive=[]).app_id)
    wide = apps.get(apps.create("wide").app_id)
    assert narrow is not None
    assert wide is not None
    assert narrow.may_send("a")
    assert not narrow.may_send("c")
    assert not narrow.may_receive("a")
    assert wide.may_send("c")
    assert wide.may_receive("c")


@pytest.mark.parametrize("bad", ["orders", [""], ["a;b"], ["a\nb"], ["x" * 2000], [5]])
def test_bad_permissions_are_refused(bad: object) -> None:
    with pytest.raises(EnSyncValidationError, match="send"):
        AppRegistry().create("app", send=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", 5])
def test_bad_names_are_refused(name: object) -> None:
    with pytest.raises(EnSyncValidationError, match="name"):
        AppRegistry().create(name)  # type: ignore[arg-type]


def test_a_name_is_used_once() -> None:
    apps = AppRegistry()
    app = apps.create("billing")
    with pytest.raises(EnSyncValidationError, match="already an app named 'billing'"):
        apps.create("billing")
    apps.remove(app.app_id)
    apps.create("billing")


def test_rotating_ends_the_old_key() -> None:
    apps = AppRegistry()
    app = apps.create("billing", send=["a"])
    new_key = apps.rotate(app.app_id)
    assert apps.authenticate(app.app_key) is None
    record = apps.authenticate(new_key)
    assert record is not None
    assert (record.app_id, record.send) == (app.app_id, frozenset({"a"}))


def test_removing_ends_everything() -> None:
    apps = AppRegistry()
    app, other = apps.create("billing"), apps.create("shop")
    apps.remove(app.app_id)
    assert apps.authenticate(app.app_key) is None
    assert apps.get(app.app_id) is None
    assert [record.name for record in apps.list()] == ["shop"]
    assert apps.authenticate(other.app_key) is not None
    for request in (apps.remove, apps.rotate):
        with pytest.raises(EnSyncValidationError, match="no app"):
            request(app.app_id)


def test_apps_are_found_again_in_their_storage() -> None:
    storage = MemoryAppStorage()
    first = AppRegistry(storage)
    made: list[App] = [first.create(name) for name in ("c", "a", "b")]
    new_key = first.rotate(made[1].app_id)
    first.remove(made[2].app_id)
    second = AppRegistry(storage)
    assert [record.name for record in second.list()] == ["c", "a"]
    assert second.authenticate(made[0].app_key) is not None
    assert second.authenticate(made[1].app_key) is None
    assert second.authenticate(new_key) is not None
