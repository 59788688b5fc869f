"""Kraken's frames and pages: what they become, and what is refused."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.market.model import InstrumentId, Tick
from ingest.sources import ByTime, GarbageFrame, RequestRefused, TryLater
from ingest.sources.kraken import kraken, parse
from ingest.sources.kraken_rest import kraken_history, parse_page
from tests.unit.hostile import BROKEN, altered, check, damaged, encode

RECORDING = (Path(__file__).parents[1] / "recordings" / "kraken_spot_v2.jsonl").read_bytes().splitlines()
BTC = InstrumentId(7)
IDS = {"BTC-USD": BTC}
TRADE: dict[str, Any] = json.loads(RECORDING[4])["data"][0]
ROW = ["30243.40000", "0.34507674", 1688669597.8277369, "b", "m", "", 61044952]


def update(**changes: Any) -> bytes:
    return encode({"channel": "trade", "type": "update", "data": [{**TRADE, **changes}]})


def page(*rows: Any) -> bytes:
    return encode({"error": [], "result": {"XXBTZUSD": list(rows), "last": "1688671969993150842"}})


def test_recorded_trades_become_ticks_by_id_with_the_takers_side() -> None:
    ticks = [tick for frame in RECORDING for tick in parse(frame, IDS)]
    assert ticks == [
        Tick(BTC, 4665846, 1695628116925500, Decimal("27066.10"), Decimal("0.23374249"), False),
        Tick(BTC, 4665847, 1695628116925533, Decimal("27066.0"), Decimal("0.00000001"), True),
        Tick(BTC, 4665848, 1695628177708706, Decimal("0.5117"), Decimal("40.0"), False),
    ]
    assert str(ticks[0].price) == "27066.10"


@pytest.mark.parametrize("price", ["0.30000000000000004", "0.123456789012345678", "12345678901234567890.5", "1.10"])
def test_json_number_is_taken_digit_by_digit(price: str) -> None:
    frame = update(price=1).replace(b'"price": 1,', f'"price": {price},'.encode())
    assert str(parse(frame, IDS)[0].price) == price


@pytest.mark.parametrize(
    "changes",
    [
        {"price": 0},
        {"price": -1.5},
        {"price": 1e300},
        {"price": 1e-300},
        {"price": None},
        {"qty": -1},
        {"qty": "NaN"},
        {"trade_id": -1},
        {"trade_id": 1.5},
        {"side": "hold"},
        {"symbol": None},
        {"timestamp": "2023-09-25T07:49:37.708706"},
        {"timestamp": "1970-01-01T00:00:00Z"},
        {"timestamp": 1695628177},
    ],
    ids=str,
)
def test_impossible_value_is_garbage(changes: dict[str, Any]) -> None:
    with pytest.raises(GarbageFrame):
        parse(update(**changes), IDS)


@pytest.mark.parametrize("field", ["symbol", "side", "qty", "price", "trade_id", "timestamp"])
def test_missing_field_is_garbage(field: str) -> None:
    trade = {key: value for key, value in TRADE.items() if key != field}
    with pytest.raises(GarbageFrame):
        parse(encode({"channel": "trade", "type": "update", "data": [trade]}), IDS)


@pytest.mark.parametrize("frame", [*BROKEN, b'{"channel":"trade"}'], ids=lambda frame: repr(frame[:12]))
def test_frame_that_is_no_message_is_garbage(frame: bytes) -> None:
    with pytest.raises(GarbageFrame):
        parse(frame, IDS)


def test_refused_request_carries_the_servers_words_and_our_number() -> None:
    refusal = {
        "error": "Currency pair not supported",
        "method": "subscribe",
        "req_id": 4,
        "success": False,
        "symbol": "NO/PE",
    }
    with pytest.raises(RequestRefused, match=r"Currency pair not supported \(NO/PE\)") as caught:
        parse(encode(refusal), IDS)
    assert caught.value.request == 4
    with pytest.raises(RequestRefused, match="Exceeded msg rate"):
        parse(b'{"error":"Exceeded msg rate"}', IDS)


def test_source_writes_tickers_as_symbols() -> None:
    source = kraken("trade")
    assert json.loads(source.subscribe(["BTC-USD", "ETH-EUR"], 4)) == {
        "method": "subscribe",
        "params": {"channel": "trade", "symbol": ["BTC/USD", "ETH/EUR"], "snapshot": True},
        "req_id": 4,
    }
    assert json.loads(source.unsubscribe(["BTC-USD"], 5)) == {
        "method": "unsubscribe",
        "params": {"channel": "trade", "symbol": ["BTC/USD"]},
        "req_id": 5,
    }
    with pytest.raises(ValueError, match="no feed 'quote'"):
        kraken("quote")


def test_history_page_begins_a_little_before_the_last_known_trade() -> None:
    history = kraken_history()
    path = history.page("BTC-USD", 61044952, 1688669597827736)
    assert path == "/0/public/Trades?pair=BTCUSD&since=1688669597827733999&count=1000"
    assert isinstance(history.locate, ByTime)
    path = history.locate.request("BTC-USD", 1688669597827736)
    assert path == "/0/public/Trades?pair=BTCUSD&since=1688669597827735999&count=1"
    assert history.page("BTC-USD", 0, 0) == "/0/public/Trades?pair=BTCUSD&since=0&count=1000"


def test_page_becomes_ticks_by_id_cut_to_microseconds() -> None:
    later = ["30243.3", "1", 1688669598.2804112, "s", "l", "", 61044953]
    assert parse_page(page(later, ROW), BTC) == [
        Tick(BTC, 61044952, 1688669597827736, Decimal("30243.40000"), Decimal("0.34507674"), False),
        Tick(BTC, 61044953, 1688669598280411, Decimal("30243.3"), Decimal(1), True),
    ]
    assert parse_page(page(), BTC) == []
    locate = kraken_history().locate
    assert isinstance(locate, ByTime)
    assert (locate.parse(page(ROW)), locate.parse(page())) == (61044952, None)


@pytest.mark.parametrize(
    "error", ["EAPI:Rate limit exceeded", "EGeneral:Too many requests", "EService:Unavailable", "EService:Busy"]
)
def test_page_of_a_busy_exchange_is_for_later(error: str) -> None:
    with pytest.raises(TryLater, match=error) as caught:
        parse_page(encode({"error": [error]}), BTC)
    assert caught.value.wait > 1


def test_page_of_an_unknown_pair_is_refused() -> None:
    with pytest.raises(RequestRefused, match="EQuery:Unknown asset pair"):
        parse_page(encode({"error": ["EQuery:Unknown asset pair"]}), BTC)


def test_page_with_a_warning_is_read() -> None:
    body = encode({"error": ["WGeneral:Danger"], "result": {"XXBTZUSD": [ROW], "last": "1"}})
    assert len(parse_page(body, BTC)) == 1


@pytest.mark.parametrize(
    "body", [*BROKEN, b'{"error":[],"result":{"XXBTZUSD":[[]],"last":"1"}}'], ids=lambda b: repr(b[:9])
)
def test_page_that_is_none_is_garbage(body: bytes) -> None:
    with pytest.raises(GarbageFrame):
        parse_page(body, BTC)


@given(st.one_of(st.binary(), st.text()))
def test_any_bytes_give_ticks_or_a_known_exception(frame: bytes | str) -> None:
    check(lambda: parse(frame, IDS))


@given(altered(TRADE), st.sampled_from(["snapshot", "update"]))
def test_any_altered_trade_gives_ticks_or_a_known_exception(trade: dict[str, Any], kind: str) -> None:
    check(lambda: parse(encode({"channel": "trade", "type": kind, "data": [trade, TRADE]}), IDS))


@given(altered({str(at): value for at, value in enumerate(ROW)}))
def test_any_altered_row_gives_ticks_or_a_known_exception(row: dict[str, Any]) -> None:
    check(lambda: parse_page(page(list(row.values()), ROW), BTC))


@pytest.mark.parametrize("time", ["1e999999999", "-1e999999999", "1e-999999999", "0", "1e15"])
def test_time_of_any_size_is_garbage_at_once(time: str) -> None:
    body = page(ROW).replace(b"1688669597.8277369", time.encode())
    with pytest.raises(GarbageFrame):
        parse_page(body, BTC)


@given(damaged(RECORDING))
def test_any_damaged_recording_gives_ticks_or_a_known_exception(frame: bytes) -> None:
    check(lambda: parse(frame, IDS))
