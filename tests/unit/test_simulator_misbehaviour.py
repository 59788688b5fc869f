from typing import Any

import msgspec
import pytest

from ingest.simulator.binance import frames as binance
from ingest.simulator.coinbase import frames as coinbase
from ingest.simulator.listing import listing
from ingest.simulator.market import Market
from ingest.simulator.misbehaviour import Distortion, Garbage, Misbehaviour, Record
from ingest.simulator.tape import Trade

TRADES = Market("BTCUSDT").trades(1000, 4000)
ALL = [trade.id for trade in TRADES]


def distort(misbehaviour: Misbehaviour, batch: int = len(TRADES)) -> tuple[list[Trade | Garbage], Record]:
    record = Record()
    distortion = Distortion("BTCUSDT", record)
    sent: list[Trade | Garbage] = []
    for start in range(0, len(TRADES), batch):
        sent += distortion.apply(TRADES[start : start + batch], misbehaviour)
    return sent, record


def ids(sent: list[Trade | Garbage]) -> list[int]:
    return [one.id for one in sent if isinstance(one, Trade)]


def test_distortion_without_misbehaviour_sends_the_truth() -> None:
    sent, record = distort(Misbehaviour())
    assert sent == TRADES
    assert not record.counters


def test_distortion_skip_leaves_out_exactly_what_it_records() -> None:
    sent, record = distort(Misbehaviour(skip=0.1))
    skipped = record.ids("skip", "BTCUSDT")
    assert 300 < len(skipped) == record.counters["skip"] < 500
    assert ids(sent) == [trade_id for trade_id in ALL if trade_id not in skipped]


def test_distortion_duplicate_sends_exactly_what_it_records_twice() -> None:
    sent, record = distort(Misbehaviour(duplicate=0.1))
    doubled = record.ids("duplicate", "BTCUSDT")
    assert 300 < len(doubled) < 500
    assert ids(sent) == [trade_id for trade_id in ALL for _ in range(2 if trade_id in doubled else 1)]


@pytest.mark.parametrize("distance", [1, 3])
def test_distortion_reorder_sends_a_trade_after_later_ones(distance: int) -> None:
    sent, record = distort(Misbehaviour(reorder=0.05, reorder_distance=distance))
    late = record.ids("reorder", "BTCUSDT")
    assert 100 < len(late) < 300
    got = ids(sent)
    assert sorted(got) == ALL[: len(got)]
    for trade_id in sorted(late)[:-1]:
        assert got.index(trade_id) == ALL.index(trade_id) + distance


def test_distortion_garbage_comes_beside_the_true_trades() -> None:
    sent, record = distort(Misbehaviour(garbage=0.2))
    garbage = [one for one in sent if isinstance(one, Garbage)]
    assert ids(sent) == ALL
    assert len(garbage) == record.counters["garbage"]
    assert len({one.bits % 11 for one in garbage}) == 11, "each kind of garbage comes"


@pytest.mark.parametrize("field", ["skip", "duplicate", "reorder", "garbage"])
def test_distortion_at_probability_one_falls_on_every_trade(field: str) -> None:
    _, record = distort(msgspec.structs.replace(Misbehaviour(), **{field: 1.0}))
    assert record.counters[field] == (len(TRADES) // 2 if field == "reorder" else len(TRADES))


def test_distortion_is_the_same_however_trades_are_batched_and_other_for_another_seed() -> None:
    wild = Misbehaviour(skip=0.1, duplicate=0.1, reorder=0.1, garbage=0.1)
    assert distort(wild)[0] == distort(wild, batch=7)[0]
    assert distort(wild)[0] != distort(msgspec.structs.replace(wild, seed=2))[0]


@pytest.mark.parametrize(
    "wrong",
    [{"skip": 1.1}, {"garbage": -0.1}, {"reorder_distance": 0}, {"rest_failure": 2}, {"void": {"BTCUSDT": ((5, 4),)}}],
)
def test_misbehaviour_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Misbehaviour(**wrong)


@pytest.mark.parametrize("venue", [binance, coinbase])
def test_garbage_in_a_form_takes_the_place_of_no_trade(venue: Any) -> None:
    listed = listing("BTCUSDT")
    for form in venue.trade_forms(listed).values():
        kinds = [Garbage(bits) for bits in range(len(form.garbage))]
        payloads = form.payloads([kinds[0], TRADES[0], *kinds[1:]], TRADES[0].time_us)
        assert payloads.pop(1) == form.encode(TRADES[0], TRADES[0].time_us)
        assert payloads == list(form.garbage)
        assert not any(b"%s" in frame for frame in payloads)
