"""A short soak on each backend and transport; and books that find what is wrong.

``make soak`` runs a long one. ENSYNC_SOAK_SEED chooses another course of events here,
and other conditions: each of the four has a seed of its own, from that one on.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.soak import Plan, soak
from tests.faults.soak_ledger import Ledger, State, StoredCopy
from tests.faults.soak_report import table

SEED = int(os.environ.get("ENSYNC_SOAK_SEED", "21"))
SECONDS = 15.0
LEAST = 50  # acknowledged events

SHOP, BILLING = "shop", "billing"
ALICE, BOB = 1, 2


@pytest.mark.anyio
@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("transport", ["grpc", "websocket"])
async def test_nothing_is_lost_while_everything_fails(
    tmp_path: Path, transport: str, anyio_backend_name: str
) -> None:
    seed = SEED + 2 * (transport == "websocket") + (anyio_backend_name == "trio")
    plan = Plan(SECONDS, seed, anyio_backend_name, transport, gap=0.3, least=LEAST)
    print(plan)
    report = await soak(plan, tmp_path / "events.db")
    print(table(report))
    assert not report.violations
    assert report.events["acknowledged"] >= LEAST, "there was hardly any load"
    assert sum(report.faults.values()) > 20, "hardly anything failed"


# The books


@pytest.fixture
def ledger() -> Ledger:
    books = Ledger()
    books.add_app(SHOP)
    books.add_app(BILLING)
    assert [books.new_reader("Alice"), books.new_reader("Bob")] == [ALICE, BOB]
    return books


def publish(ledger: Ledger, *recipients: str) -> int:
    """An event that was accepted."""
    number = ledger.sending(recipients)
    ledger.answered(number, {app_id: f"{number} for {app_id}" for app_id in recipients})
    return number


def hand_out(ledger: Ledger, number: int, app_id: str = SHOP, reader: int = ALICE) -> None:
    ledger.lent(number, app_id)
    ledger.handed_out(number, app_id, reader)


def acknowledge(ledger: Ledger, number: int, app_id: str = SHOP, reader: int = ALICE) -> None:
    ledger.finished(number, app_id, reader)
    ledger.committed(number, app_id, State.ACKNOWLEDGED)
    ledger.confirmed(number, app_id, State.ACKNOWLEDGED)


def stored(
    number: int, app_id: str = SHOP, state: State = State.ACKNOWLEDGED, idem: str | None = None
) -> StoredCopy:
    return StoredCopy(number, app_id, idem or f"{number} for {app_id}", state)


def broken(ledger: Ledger, *copies: StoredCopy) -> dict[str, int]:
    """What the books find, with this in the store."""
    ledger.found(copies)
    ledger.compare()
    return dict(ledger.broken)


def test_books_that_are_right(ledger: Ledger) -> None:
    number = publish(ledger, SHOP, BILLING)
    for app_id in (SHOP, BILLING):
        hand_out(ledger, number, app_id)
        acknowledge(ledger, number, app_id)
    assert not broken(ledger, stored(number), stored(number, BILLING))
    assert ledger.counts["accepted"] == ledger.counts["handed"] == 2


def test_redelivery_is_no_fault(ledger: Ledger) -> None:
    number = publish(ledger, SHOP)
    hand_out(ledger, number)
    hand_out(ledger, number, reader=BOB)
    hand_out(ledger, number)
    acknowledge(ledger, number)
    assert not broken(ledger, stored(number))
    assert ledger.counts["redelivered"] == 2


def test_accepted_and_not_stored_is_lost(ledger: Ledger) -> None:
    publish(ledger, SHOP)
    assert broken(ledger) == {"lost": 1}


def test_accepted_for_two_and_stored_for_one_is_lost(ledger: Ledger) -> None:
    number = publish(ledger, SHOP, BILLING)
    hand_out(ledger, number)
    acknowledge(ledger, number)
    assert broken(ledger, stored(number)) == {"lost": 1}


@pytest.mark.parametrize("accepted", [True, False])
def test_stored_and_never_handed_out_is_lost(ledger: Ledger, accepted: bool) -> None:
    number = publish(ledger, SHOP) if accepted else ledger.sending([SHOP])
    assert broken(ledger, stored(number)) == {"lost": 1}


def test_unknown_may_be_stored_or_not(ledger: Ledger) -> None:
    number, _ = ledger.sending([SHOP]), ledger.sending([SHOP])
    hand_out(ledger, number)
    acknowledge(ledger, number)
    assert not broken(ledger, stored(number))
    assert ledger.unknown == 2


@pytest.mark.parametrize("accepted", [True, False])
def test_stored_twice_is_doubled(ledger: Ledger, accepted: bool) -> None:
    number = publish(ledger, SHOP) if accepted else ledger.sending([SHOP])
    hand_out(ledger, number)
    acknowledge(ledger, number)
    assert broken(ledger, stored(number), stored(number)) == {"doubled": 1}


def test_accepted_under_another_id(ledger: Ledger) -> None:
    number = publish(ledger, SHOP)
    hand_out(ledger, number)
    acknowledge(ledger, number)
    assert broken(ledger, stored(number, idem="another")) == {"other id": 1}


def test_rejected_and_stored(ledger: Ledger) -> None:
    number = ledger.sending([SHOP])
    ledger.answered(number, {}, [SHOP])
    assert broken(ledger, stored(number)) == {"rejected and stored": 1, "lost": 1}


def test_rejected_and_handed_out(ledger: Ledger) -> None:
    number = ledger.sending([SHOP])
    ledger.answered(number, {}, [SHOP])
    hand_out(ledger, number)
    assert broken(ledger) == {"invented": 1}


@pytest.mark.parametrize("number", [0, 1, -1])
def test_stored_and_never_sent_is_invented(ledger: Ledger, number: int) -> None:
    ledger.sending([BILLING])
    assert broken(ledger, stored(number)) == {"invented": 1}


def test_handed_out_and_never_sent_is_invented(ledger: Ledger) -> None:
    ledger.handed_out(0, SHOP, ALICE)
    ledger.handed_out(0, "nobody", ALICE)
    assert broken(ledger) == {"invented": 2}


@pytest.mark.parametrize("state", [State.ACKNOWLEDGED, State.DISCARDED])
@pytest.mark.parametrize("known_to", ["reader", "engine"])
def test_handed_out_again_to_who_had_it_settled(
    ledger: Ledger, state: State, known_to: str
) -> None:
    number = publish(ledger, SHOP)
    hand_out(ledger, number)
    ledger.finished(number, SHOP, ALICE)
    tell = ledger.confirmed if known_to == "reader" else ledger.committed
    tell(number, SHOP, state)
    ledger.handed_out(number, SHOP, ALICE)
    assert dict(ledger.broken) == {"handed after settled": 1}


def test_a_copy_that_another_reader_had_all_along_is_stale(ledger: Ledger) -> None:
    number = publish(ledger, SHOP)
    hand_out(ledger, number)
    ledger.lent(number, SHOP)  # to Bob, when Alice's connection was lost
    acknowledge(ledger, number)
    ledger.handed_out(number, SHOP, BOB)
    assert not broken(ledger, stored(number))
    assert ledger.counts["stale copies"] == 1


@pytest.mark.parametrize("confirmed", [False, True])
def test_settled_unawares_it_comes_again_unless_the_reader_knew(
    ledger: Ledger, confirmed: bool
) -> None:
    number = publish(ledger, SHOP)
    hand_out(ledger, number)
    ledger.finished(number, SHOP, ALICE)
    ledger.committed(number, SHOP, State.ACKNOWLEDGED)
    if confirmed:
        ledger.confirmed(number, SHOP, State.ACKNOWLEDGED)
    ledger.handed_out(number, SHOP, ALICE, unsure=True)
    assert broken(ledger, stored(number)) == ({"handed after settled": 1} if confirmed else {})


def test_lent_again_after_it_was_settled(ledger: Ledger) -> None:
    number = publish(ledger, SHOP)
    hand_out(ledger, number)
    acknowledge(ledger, number)
    ledger.lent(number, SHOP)
    assert broken(ledger, stored(number)) == {"handed after settled": 1}


def test_settled_twice(ledger: Ledger) -> None:
    number = publish(ledger, SHOP)
    hand_out(ledger, number)
    acknowledge(ledger, number)
    ledger.committed(number, SHOP, State.DISCARDED)
    assert broken(ledger, stored(number)) == {"settled twice": 1}


def test_settled_before_anybody_was_done(ledger: Ledger) -> None:
    number = publish(ledger, SHOP)
    hand_out(ledger, number)
    ledger.committed(number, SHOP, State.ACKNOWLEDGED)
    assert broken(ledger, stored(number)) == {"settled unfinished": 1}


def test_what_was_given_back_undone_is_not_to_be_settled(ledger: Ledger) -> None:
    number = publish(ledger, SHOP)
    hand_out(ledger, number)
    ledger.finished(number, SHOP, ALICE)
    hand_out(ledger, number)  # as her acknowledgement was refused
    ledger.put_off(number, SHOP, ALICE)
    ledger.committed(number, SHOP, State.ACKNOWLEDGED)
    assert broken(ledger, stored(number)) == {"settled unfinished": 1}


def test_what_one_gives_back_another_may_have_finished(ledger: Ledger) -> None:
    number = publish(ledger, SHOP)
    hand_out(ledger, number)
    hand_out(ledger, number, reader=BOB)
    ledger.finished(number, SHOP, BOB)
    ledger.put_off(number, SHOP, ALICE)
    ledger.committed(number, SHOP, State.ACKNOWLEDGED)
    assert not broken(ledger, stored(number))


def test_what_was_given_back_undone_comes_again_and_is_settled(ledger: Ledger) -> None:
    number = publish(ledger, SHOP)
    hand_out(ledger, number)
    ledger.put_off(number, SHOP, ALICE)
    hand_out(ledger, number)
    acknowledge(ledger, number)
    assert not broken(ledger, stored(number))


def test_open_at_the_end(ledger: Ledger) -> None:
    number = publish(ledger, SHOP)
    hand_out(ledger, number)
    assert broken(ledger, stored(number, state=State.OPEN)) == {"left over": 1}


def test_open_again_after_it_was_settled(ledger: Ledger) -> None:
    number = publish(ledger, SHOP)
    hand_out(ledger, number)
    acknowledge(ledger, number)
    assert broken(ledger, stored(number, state=State.OPEN)) == {"forgot settling": 1}


def test_a_broken_promise_is_told_with_the_story_of_its_event() -> None:
    times = iter([0.0, 0.0, 1.0, 1.5, 2.0, 2.25, 3.0])
    ledger = Ledger(clock=lambda: next(times))
    ledger.add_app(SHOP)
    ledger.add_app(BILLING)
    alice = ledger.new_reader("orders in a loop")
    number = publish(ledger, SHOP)
    hand_out(ledger, number, reader=alice)
    ledger.committed(number, SHOP, State.ACKNOWLEDGED)
    (violation,) = ledger.examples
    assert violation.text.split("\n    ") == [
        f"no reader was done with event {number}",
        "shop 1.000 s: sent",
        "shop 1.500 s: accepted",
        "shop 2.000 s: lent",
        f"shop 2.250 s: handed_out (orders in a loop, {alice})",
        "shop 3.000 s: acknowledged",
    ]


def test_examples_are_bounded(ledger: Ledger) -> None:
    for number in range(200):
        ledger.violate("garbled", f"event {number}")
    assert ledger.broken["garbled"] == 200
    assert len(ledger.examples) == 50
