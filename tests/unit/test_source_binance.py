"""Binance's frames: what they become, and what is refused."""

import json
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.market.model import Feed, InstrumentId, Tick
from ingest.sources import ClosingSoon, GarbageFrame, History, RequestRefused
from ingest.sources.binance import PARSERS, binance
from ingest.sources.binance_rest import binance_history
from tests.unit.hostile import BROKEN, altered, damaged, encode, values
from tests.unit.hostile import check as check_one

RECORDING = Path(__file__).parents[1] / "recordings" / "binance_spot.jsonl"
BTC = InstrumentId(7)
IDS = {"BTCUSDT": BTC}

TRADE: dict[str, Any] = {
    "e": "trade",
    "E": 1672515782136,
    "s": "BTCUSDT",
    "t": 12345,
    "p": "16578.50000000",
    "q": "0.00100000",
    "T": 1672515782134,
    "m": True,
    "M": True,
}


def combined(data: Any) -> bytes:
    return json.dumps({"stream": "btcusdt@trade", "data": data}).encode()


def trade(**changes: Any) -> bytes:
    return combined({**TRADE, **changes})


def recorded(feed: str) -> list[Tick]:
    parse = PARSERS[feed]  # type: ignore[index]
    return [tick for line in RECORDING.read_bytes().splitlines() for tick in parse(line, IDS)]


def test_recorded_trades() -> None:
    assert recorded("trade") == [
        Tick(BTC, 12345, 1672515782134000, Decimal("16578.50000000"), Decimal("0.00100000"), True),
        Tick(BTC, 12346, 1672515782200000, Decimal("16578.51000000"), Decimal("0.25000000"), False),
        Tick(BTC, 12347, 1735689600000117, Decimal("93576.00000000"), Decimal("1.00000000"), False),
    ]


def test_recorded_aggregate_trades() -> None:
    assert recorded("aggTrade") == [Tick(BTC, 777, 1672515782134000, Decimal("16578.5"), Decimal("0.251"), True)]


def test_recorded_seconds_give_one_tick_when_closed() -> None:
    time_us = 1672515782999000
    assert recorded("kline_1s") == [Tick(BTC, time_us, time_us, Decimal("16578.51"), Decimal("0.251"), None)]


def test_recorded_mini_tickers() -> None:
    time_us = 1672515782136000
    assert recorded("miniTicker") == [Tick(BTC, time_us, time_us, Decimal("16578.51"), Decimal(0), None)]


@pytest.mark.parametrize("as_text", [False, True])
def test_raw_frame_equals_combined_frame(as_text: bool) -> None:
    raw = json.dumps(TRADE)
    parse = PARSERS["trade"]
    assert parse(raw if as_text else raw.encode(), IDS) == parse(combined(TRADE), IDS)
    assert len(parse(raw, IDS)) == 1


def test_eighteen_places_and_twenty_digits_survive_unchanged() -> None:
    price, size = "12345678901234567890.123456789012345678", "0.000000000000000001"
    (tick,) = PARSERS["trade"](trade(p=price, q=size), IDS)
    assert (str(tick.price), f"{tick.size:f}") == (price, size)


def test_size_zero_is_a_tick() -> None:
    assert PARSERS["trade"](trade(q="0.00000000"), IDS)[0].size == 0


def test_foreign_symbol_is_ignored() -> None:
    assert PARSERS["trade"](trade(s="DOGEUSDT"), IDS) == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"p": "NaN"},
        {"p": "sNaN"},
        {"p": "Infinity"},
        {"p": "-Infinity"},
        {"p": "0"},
        {"p": "-1"},
        {"p": ""},
        {"p": "abc"},
        {"p": None},
        {"p": "1E+20"},
        {"p": "1E-19"},
        {"p": "1.0000000000000000001"},
        {"p": "1E999999999999999999999"},
        {"q": "NaN"},
        {"q": "Infinity"},
        {"q": "-0.1"},
        {"q": "0.0000000000000000001"},
        {"t": -1},
        {"t": 2**63},
        {"t": "12345"},
        {"t": True},
        {"T": 0},
        {"T": -1672515782134},
        {"T": 1672515782},
        {"T": 10**13},
        {"T": 99999999999999999},
        {"T": 10**30},
        {"T": "now"},
        {"m": 1},
        {"s": 5},
        {"e": "tirade"},
    ],
    ids=str,
)
def test_impossible_value_is_garbage(changes: dict[str, Any]) -> None:
    with pytest.raises(GarbageFrame) as caught:
        PARSERS["trade"](trade(**changes), IDS)
    assert str(caught.value)


@pytest.mark.parametrize("field", ["e", "s", "t", "p", "q", "T", "m"])
def test_missing_field_is_garbage(field: str) -> None:
    with pytest.raises(GarbageFrame):
        PARSERS["trade"](combined({key: value for key, value in TRADE.items() if key != field}), IDS)


@pytest.mark.parametrize(
    "frame",
    [b"", b"{", b"[]", b"{}", b"null", b"7", b'"text"', b"\xff\xfe", b"[" * 100_000, b'{"stream":"x"}', b'{"id":1}'],
    ids=lambda frame: repr(frame[:12]),
)
def test_frame_that_is_no_event_is_garbage(frame: bytes) -> None:
    for parse in PARSERS.values():
        with pytest.raises(GarbageFrame):
            parse(frame, IDS)


@pytest.mark.parametrize(
    "frame",
    [
        b'{"e":"serverShutdown","E":1770123456789}',
        b'{"event":{"e":"serverShutdown","E":1770123456789}}',
        b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}',
    ],
)
def test_server_shutdown_is_announced_on_every_feed(frame: bytes) -> None:
    for parse in PARSERS.values():
        with pytest.raises(ClosingSoon):
            parse(frame, IDS)


@pytest.mark.parametrize(
    ("frame", "request_number"),
    [
        (b'{"error":{"code":2,"msg":"Invalid request: unknown variant"},"id":3}', 3),
        (b'{"code":2,"msg":"Invalid request: unknown variant","id":"3"}', None),
    ],
)
def test_refused_request_carries_the_servers_words(frame: bytes, request_number: int | None) -> None:
    with pytest.raises(RequestRefused, match=r"Invalid request: unknown variant \(code 2\)") as caught:
        PARSERS["trade"](frame, IDS)
    assert caught.value.request == request_number


def test_source_declares_the_feed() -> None:
    source = binance("aggTrade", "ws://127.0.0.1:9443/")
    assert source.url == "ws://127.0.0.1:9443/stream?timeUnit=MICROSECOND"
    assert json.loads(source.subscribe(["BTCUSDT", "ETHUSDT"], 4)) == {
        "method": "SUBSCRIBE",
        "params": ["btcusdt@aggTrade", "ethusdt@aggTrade"],
        "id": 4,
    }
    assert json.loads(source.unsubscribe(["BTCUSDT"], 5))["method"] == "UNSUBSCRIBE"
    assert [binance(feed).contiguous_ids for feed in PARSERS] == [True, True, False, False]
    assert source.max_age < 24 * 3600
    assert source.requests_per_second < 5


def test_largest_request_fits_a_frame_of_4096_bytes() -> None:
    source = binance("miniTicker")
    assert len(source.subscribe(["1000SATSFDUSD"] * source.tickers_per_request, 10**6)) < 4096


def test_unknown_feed_is_refused() -> None:
    with pytest.raises(ValueError, match="no feed 'quote'"):
        binance("quote")


KEYS = ["e", "E", "s", "t", "a", "p", "q", "T", "m", "c", "k", "x", "i", "v", "id", "result", "error", "code", "msg"]
EVENTS: dict[str, dict[str, Any]] = {
    "trade": TRADE,
    "aggTrade": {**TRADE, "e": "aggTrade", "a": 1},
    "kline_1s": {"e": "kline", "s": "BTCUSDT", "k": {"T": 1672515782999, "i": "1s", "c": "1", "v": "1", "x": True}},
    "miniTicker": {"e": "24hrMiniTicker", "s": "BTCUSDT", "E": 1672515782999, "c": "1"},
}


def check(frame: bytes | str) -> None:
    """Any parser answers any frame with ticks fit to be stored, or one of its three exceptions."""
    for parse in PARSERS.values():
        check_one(partial(parse, frame, IDS))


@given(st.one_of(st.binary(), st.text()))
def test_any_bytes_give_ticks_or_a_known_exception(frame: bytes | str) -> None:
    check(frame)


@given(st.sampled_from(list(EVENTS)), st.dictionaries(st.sampled_from(KEYS), values, max_size=4), st.booleans())
def test_any_altered_event_gives_ticks_or_a_known_exception(feed: str, changes: dict[str, Any], wrapped: bool) -> None:
    event = {**EVENTS[feed], **changes}
    if feed == "kline_1s":
        event["k"] = {**EVENTS[feed]["k"], **changes} if "k" not in changes else changes["k"]
    check(json.dumps({"stream": "x", "data": event} if wrapped else event))


@given(damaged(RECORDING.read_bytes().splitlines()))
def test_any_damaged_recording_gives_ticks_or_a_known_exception(frame: bytes) -> None:
    check(frame)


ROWS: dict[Feed, dict[str, Any]] = {
    "trade": {"id": 12345, "price": "16578.5", "qty": "0.001", "time": 1672515782134000, "isBuyerMaker": True},
    "aggTrade": {"a": 12345, "p": "16578.5", "q": "0.001", "T": 1672515782134000, "m": True, "f": 12345, "l": 12345},
}


def history(feed: Feed) -> History:
    history = binance_history(feed)
    assert history
    return history


@pytest.mark.parametrize("feed", list(ROWS))
def test_stream_and_history_give_a_trade_the_same_key(feed: Feed) -> None:
    (past,) = history(feed).parse(encode([ROWS[feed]]), BTC)
    (live,) = PARSERS[feed](combined({**TRADE, "e": feed, "a": 12345}), IDS)
    assert past == live


@pytest.mark.parametrize("feed", list(ROWS))
@pytest.mark.parametrize(
    "body", [*BROKEN[:2], *BROKEN[3:], b"[{}]", b'{"code":-1003}'], ids=lambda body: repr(body[:9])
)
def test_history_page_that_is_none_is_garbage(feed: Feed, body: bytes) -> None:
    with pytest.raises(GarbageFrame):
        history(feed).parse(body, BTC)


@given(altered(ROWS["trade"]), altered(ROWS["aggTrade"]))
def test_any_altered_row_gives_ticks_or_a_known_exception(trade: dict[str, Any], aggregate: dict[str, Any]) -> None:
    check_one(lambda: history("trade").parse(encode([trade]), BTC))
    check_one(lambda: history("aggTrade").parse(encode([aggregate]), BTC))
