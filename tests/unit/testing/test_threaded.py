"""An engine in a thread of its own, used from a test's own loop or from none."""

from __future__ import annotations

import threading
from contextlib import suppress

import anyio
import pytest

import ensync
from ensync.testing import EngineApp, ThreadedEngine
from ensync.testing.rules import ScriptedFault


def test_it_has_to_be_entered() -> None:
    engine = ThreadedEngine()
    assert not engine.is_running
    with pytest.raises(ensync.EnSyncGenericError, match="use it inside its 'with' block") as caught:
        engine.create_app()
    assert caught.value.code == "not_running"
    with pytest.raises(ensync.EnSyncGenericError, match="use it inside its 'with' block"):
        engine.faults.heal()


def threads() -> set[threading.Thread]:
    """Those there are, but for trio's spare ones, which end when they like."""
    return {thread for thread in threading.enumerate() if "Trio thread" not in thread.name}


def test_wrong_options_are_refused_and_leave_no_thread() -> None:
    before = threads()
    with pytest.raises(ensync.EnSyncValidationError, match="decides by itself about port"):
        ThreadedEngine(port=1)
    with (
        pytest.raises(ensync.EnSyncValidationError, match="max_in_flight"),
        ThreadedEngine(max_in_flight=0),
    ):
        pytest.fail("an engine that never has anything in flight")
    assert threads() <= before


def test_an_error_in_its_block_comes_out_bare() -> None:
    before = threads()
    with pytest.raises(KeyError, match="the test's own"), ThreadedEngine():
        raise KeyError("the test's own")
    assert threads() <= before


def test_an_app_shows_no_secret_and_knows_two_transports() -> None:
    with ThreadedEngine() as engine:
        app = engine.create_app("shop", receive=[])
        with pytest.raises(ensync.EnSyncValidationError, match="already an app"):
            engine.create_app("shop")
        with pytest.raises(ensync.EnSyncValidationError, match="transport"):
            app.connect("udp")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert "shop" in repr(app)
    assert app.app_key not in repr(app)
    assert app.secret_key not in repr(app)


def test_faults_that_two_threads_ask_for_at_once_are_all_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both_look = threading.Barrier(2, timeout=0.3)  # one that looks alone goes on

    def is_over(_rule: ScriptedFault) -> bool:
        with suppress(threading.BrokenBarrierError):
            both_look.wait()
        return False

    with ThreadedEngine() as engine:
        faults = engine.faults
        faults.drop_reply("connect")
        asking = [
            threading.Thread(target=faults.fail_next, args=(m,)) for m in ("publish", "defer")
        ]
        with monkeypatch.context() as patch:
            patch.setattr(ScriptedFault, "is_over", property(is_over))
            for thread in asking:
                thread.start()
            for thread in asking:
                thread.join()
        kept = repr(faults)
    assert all(f"for {method}:" in kept for method in ("connect", "publish", "defer"))


@pytest.mark.anyio
async def test_what_happens_to_connections_happens_in_its_thread() -> None:
    with ThreadedEngine() as engine:
        app = engine.create_app()
        for fault in (engine.faults.goaway, engine.faults.abort_connections):
            await recovers_from(engine, app, fault.__name__)
        assert engine.faults.happened == {"goaway": 1, "abort_connections": 1}


async def recovers_from(engine: ThreadedEngine, app: EngineApp, fault: str) -> None:
    connected = engine.faults.calls("connect")
    often = ensync.Reconnect(initial=0.01, maximum=0.01)
    with anyio.fail_after(10):
        async with app.connect(reconnect=often) as client:
            getattr(engine.faults, fault)()
            await engine.faults.wait_calls("connect", connected + 2)
            await client.publish("greetings", [app.app_id], "hello")


@pytest.mark.anyio
async def test_a_gap_between_two_runs() -> None:
    with ThreadedEngine() as engine, anyio.fail_after(10):
        app = engine.create_app()
        await engine.stop()
        assert not engine.is_running
        with pytest.raises(ensync.EnSyncConnectionError):
            async with app.connect(connect_timeout=1.0, reconnect=ensync.Reconnect(max_attempts=1)):
                pytest.fail("connected to nothing")
        await engine.start()
        async with app.connect() as client:
            await client.publish("greetings", [app.app_id], "hello")
        assert engine.statistics().published == 1
