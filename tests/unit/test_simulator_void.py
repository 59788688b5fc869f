import random
from pathlib import Path

import pytest

from ingest.simulator.market import EPOCH_US, Market
from ingest.simulator.replay import Replay
from ingest.simulator.tape import Tape, Trade
from ingest.simulator.void import Span, VoidedTape

UNTIL = EPOCH_US + 3600 * 1_000_000
SPANS = [[(10, 20)], [(1, 1)], [(10, 20), (15, 30), (31, 33), (40, 40)], [(1, 30), (32, 200)], [(5, 10**12)], []]


@pytest.fixture(params=["market", "replay"])
def tape(request: pytest.FixtureRequest, tmp_path: Path) -> Tape:
    """A market, or a file with ids of its own that leave out every fifth."""
    if request.param == "market":
        return Market("BTCUSDT", rate=5, seed=2)
    path = tmp_path / "BTCUSDT-trades-x.csv"
    rows = [(n, EPOCH_US // 1000 + n * 100) for n in range(1, 300) if n % 5]
    path.write_text("".join(f"{number},39000.5,0.01,390,{time},True,True\n" for number, time in rows))
    return Replay(path, keep_times=True)


def truth(tape: Tape, spans: list[Span]) -> list[Trade]:
    """The first thousand ids, without the void ones."""
    trades = [trade for trade in tape.trades(0, 1000) if trade.id <= 1000]
    return [trade for trade in trades if not any(first <= trade.id <= last for first, last in spans)]


@pytest.mark.parametrize("spans", SPANS)
def test_voided_tape_has_the_trades_outside_its_spans_from_anywhere(tape: Tape, spans: list[Span]) -> None:
    voided = VoidedTape(tape)
    voided.void = spans
    left = truth(tape, spans)
    for seed in range(60):
        start, limit = random.Random(seed).randint(0, 250), random.Random(seed).randint(1, 60)
        at = tape.trades(start, 1)[0].time_us
        above = [trade for trade in left if trade.id >= start]
        below = [trade for trade in left if trade.id < start]
        assert [trade for trade in voided.trades(start, limit) if trade.id <= 1000] == above[:limit]
        assert voided.trades(start, 1000, at) == [trade for trade in above if trade.time_us <= at]
        assert voided.before(start, limit) == below[-limit:]
        assert voided.latest(limit, at) == [trade for trade in left if trade.time_us <= at][-limit:]
        if above:
            assert voided.time_of(start) == above[0].time_us


@pytest.mark.parametrize("spans", SPANS[:4])
def test_voided_tape_does_not_know_a_void_trade_and_names_the_next_id(tape: Tape, spans: list[Span]) -> None:
    voided = VoidedTape(tape)
    voided.void = spans
    for first, last in spans:
        with pytest.raises(LookupError):
            voided.trade(first)
        end = max(other for start, other in voided.void if start <= first)
        assert last <= end
        if first in {trade.id for trade in tape.trades(0, 300)}:
            assert voided.id_at(tape.trade(first).time_us) == end + 1


def test_voided_tape_of_a_tape_that_ends_in_its_span_is_over(tmp_path: Path) -> None:
    path = tmp_path / "BTCUSDT-trades-x.csv"
    path.write_text("".join(f"{n},39000.5,0.01,390,{1_700_000_000_000 + n},True,True\n" for n in range(1, 11)))
    voided = VoidedTape(Replay(path, keep_times=True))
    voided.void = [(8, 20)]
    assert [trade.id for trade in voided.trades(6, 10)] == [6, 7]
    assert voided.time_of(8) is None
    voided.void = []
    assert voided.time_of(8) is not None
