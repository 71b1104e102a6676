"""Where an event is, and what its arrival means: every place against every arrival."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ensync.ledger import Arrival, DeliveryLedger, EventKey, Place

HERE = {Place.BUFFERED, Place.IN_HAND, Place.ACKNOWLEDGING, Place.DEFERRING}
KEY = EventKey("idem", 0)

# The place of an event, what its arrival means, and the place after it.
TABLE: list[tuple[Place | None, Arrival, Place]] = [
    (None, Arrival.SHOW, Place.BUFFERED),
    (Place.BUFFERED, Arrival.IGNORE, Place.BUFFERED),
    (Place.IN_HAND, Arrival.IGNORE, Place.IN_HAND),
    (Place.ACKNOWLEDGING, Arrival.IGNORE, Place.ACKNOWLEDGING),
    (Place.DEFERRING, Arrival.KEEP, Place.DEFERRING),
    (Place.ACKNOWLEDGED, Arrival.ACKNOWLEDGE_AGAIN, Place.ACKNOWLEDGING),
    (Place.DISCARDED, Arrival.DISCARD_AGAIN, Place.DISCARDED),
    (Place.GIVEN_BACK, Arrival.SHOW_AGAIN, Place.BUFFERED),
]


def test_the_table_is_complete() -> None:
    assert {place for place, _, _ in TABLE} == {None, *Place}
    assert {arrival for _, arrival, _ in TABLE} == set(Arrival)


@pytest.mark.parametrize(("place", "arrival", "after"), TABLE)
def test_an_arrival_at_each_place(place: Place | None, arrival: Arrival, after: Place) -> None:
    ledger = DeliveryLedger()
    if place is not None:
        ledger.move(KEY, place)
    assert ledger.arrived(KEY) is arrival
    assert ledger.place(KEY) is after


def test_the_block_belongs_to_the_key() -> None:
    ledger = DeliveryLedger()
    ledger.move(EventKey("idem", 0), Place.ACKNOWLEDGED)
    assert ledger.arrived(EventKey("idem", 1)) is Arrival.SHOW


def test_the_oldest_that_left_are_forgotten_and_those_here_never() -> None:
    ledger = DeliveryLedger(remembered=3)
    keys = [EventKey(str(n), n) for n in range(10)]
    for key in keys[:5]:
        ledger.move(key, Place.IN_HAND)
    for key in keys[5:]:
        ledger.move(key, Place.ACKNOWLEDGED)
    assert [ledger.place(key) for key in keys] == (
        [Place.IN_HAND] * 5 + [None] * 2 + [Place.ACKNOWLEDGED] * 3
    )


def test_an_idem_finds_what_is_here() -> None:
    ledger = DeliveryLedger()
    ledger.move(KEY, Place.IN_HAND)
    assert ledger.find("idem") == KEY
    ledger.move(KEY, Place.ACKNOWLEDGED)
    assert ledger.find("idem") is None


KEYS = st.builds(EventKey, st.sampled_from("abcde"), st.integers(0, 1))


class LedgerMachine(RuleBasedStateMachine):
    """A dict of places, with those that left in order, is the model."""

    REMEMBERED = 4

    def __init__(self) -> None:
        super().__init__()
        self.ledger = DeliveryLedger(remembered=self.REMEMBERED)
        self.model: dict[EventKey, Place] = {}

    def note(self, key: EventKey, place: Place) -> None:
        self.model.pop(key, None)
        self.model[key] = place
        left = [k for k, p in self.model.items() if p not in HERE]
        if len(left) > self.REMEMBERED:
            del self.model[left[0]]

    @rule(key=KEYS)
    def arrive(self, key: EventKey) -> None:
        expected, after = next(
            (arrival, after) for place, arrival, after in TABLE if place is self.model.get(key)
        )
        assert self.ledger.arrived(key) is expected
        if after is not self.model.get(key) or expected is Arrival.DISCARD_AGAIN:
            self.note(key, after)

    @rule(key=KEYS, place=st.sampled_from(Place))
    def move(self, key: EventKey, place: Place) -> None:
        self.ledger.move(key, place)
        self.note(key, place)

    @invariant()
    def they_agree(self) -> None:
        for key in [EventKey(idem, block) for idem in "abcde" for block in (0, 1)]:
            assert self.ledger.place(key) is self.model.get(key)
        for place in HERE:
            assert self.ledger.count(place) == list(self.model.values()).count(place)


TestLedgerMachine: Any = LedgerMachine.TestCase
