"""The merge of two connections: every tick once, in order."""

from collections.abc import Sequence
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from app.market.model import InstrumentId, Tick
from ingest import handover as module
from ingest.handover import Handover

ONE, TWO = InstrumentId(1), InstrumentId(2)


def tick(trade_id: int, instrument: InstrumentId = ONE) -> Tick:
    return Tick(instrument, trade_id, trade_id, Decimal(1), Decimal(1), None)


class Merge:
    def __init__(self, *instruments: InstrumentId, hold: bool = True) -> None:
        self.pushed: list[Tick] = []
        self.completed = 0
        self.handover = Handover(self.push, instruments or (ONE,), self.complete, hold=hold)

    def push(self, ticks: Sequence[Tick]) -> bool:
        self.pushed += ticks
        return True

    def complete(self) -> None:
        self.completed += 1

    def ids(self, instrument: InstrumentId = ONE) -> list[int]:
        return [each.trade_id for each in self.pushed if each.instrument_id == instrument]


def test_new_ahead_of_old_is_held_until_old_reaches_it() -> None:
    merge = Merge()
    merge.handover.from_old([tick(1)])
    merge.handover.from_new([tick(3), tick(4)])
    assert merge.ids() == [1]
    merge.handover.from_old([tick(2)])
    assert merge.ids() == [1, 2]
    assert merge.completed == 0
    merge.handover.from_old([tick(3)])
    assert merge.ids() == [1, 2, 3, 4]
    assert merge.completed == 1


def test_old_ahead_of_new_is_never_repeated() -> None:
    merge = Merge()
    merge.handover.from_old([tick(1), tick(2), tick(3)])
    merge.handover.from_new([tick(2), tick(3), tick(4)])
    merge.handover.from_old([tick(4), tick(5)])
    assert merge.ids() == [1, 2, 3, 4, 5]
    assert merge.completed == 1


def test_complete_waits_for_every_instrument() -> None:
    merge = Merge(ONE, TWO)
    merge.handover.from_old([tick(1), tick(7, TWO)])
    merge.handover.from_new([tick(1)])
    assert merge.completed == 0
    merge.handover.from_new([tick(7, TWO)])
    assert merge.completed == 1
    assert (merge.ids(), merge.ids(TWO)) == ([1], [7])


def test_finish_releases_what_is_held_and_holds_no_more() -> None:
    merge = Merge()
    merge.handover.from_new([tick(5)])
    assert merge.ids() == []
    merge.handover.finish()
    merge.handover.from_new([tick(6)])
    merge.handover.from_old([tick(5), tick(6), tick(7)])
    assert merge.ids() == [5, 6, 7]


def test_silent_old_connection_holds_nothing_back() -> None:
    merge = Merge(hold=False)
    merge.handover.from_new([tick(5)])
    merge.handover.from_old([tick(5), tick(6)])
    assert merge.ids() == [5, 6]


def test_too_many_held_ticks_are_released() -> None:
    merge = Merge()
    merge.handover.from_new([tick(trade_id) for trade_id in range(module.MAX_HELD)])
    assert merge.ids() == []
    merge.handover.from_new([tick(module.MAX_HELD)])
    assert merge.ids() == list(range(module.MAX_HELD + 1))


def test_full_buffer_is_reported_to_whoever_pushed_last() -> None:
    handover = Handover(lambda ticks: False, {ONE}, lambda: None)
    assert handover.from_old([tick(1)]) is False
    assert handover.from_new([tick(2)]) is True, "held, not pushed"
    assert handover.from_old([tick(2)]) is False


@given(st.data())
def test_any_interleaving_pushes_each_tick_once_and_in_order(data: st.DataObject) -> None:
    """The new connection starts at any tick that the old one still lives to see; both pause and race at will."""
    merge = Merge(ONE, TWO)
    total = 12
    queues: list[list[Tick]] = [[], []]
    for instrument in (ONE, TWO):
        start = data.draw(st.integers(0, total - 1))
        last = data.draw(st.integers(start, total - 1))
        queues[0] += [tick(trade_id, instrument) for trade_id in range(last + 1)]
        queues[1] += [tick(trade_id, instrument) for trade_id in range(start, total)]
    sides = (merge.handover.from_old, merge.handover.from_new)
    while any(queues):
        side = data.draw(st.sampled_from([index for index in (0, 1) if queues[index]]))
        size = data.draw(st.integers(1, 4))
        sides[side](queues[side][:size])
        del queues[side][:size]
    assert merge.ids() == merge.ids(TWO) == list(range(total))
    assert merge.completed == 1


@given(st.permutations(range(8)), st.permutations(range(3, 10)), st.lists(st.booleans(), min_size=15, max_size=15))
def test_any_order_within_the_connections_loses_and_repeats_nothing(
    old: list[int], new: list[int], turns: list[bool]
) -> None:
    merge = Merge()
    for turn in turns:
        side, queue = (merge.handover.from_old, old) if (turn and old) or not new else (merge.handover.from_new, new)
        side([tick(queue.pop(0))])
    merge.handover.finish()
    assert sorted(merge.ids()) == list(range(10))
