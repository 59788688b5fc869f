"""Coinbase's frames and pages: what they become, and what is refused."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.market.model import InstrumentId, Tick
from ingest.sources import ById, GarbageFrame, RequestRefused
from ingest.sources.coinbase import coinbase, parse
from ingest.sources.coinbase_rest import coinbase_history, parse_page
from tests.unit.hostile import BROKEN, altered, check, damaged, encode

RECORDING = (Path(__file__).parents[1] / "recordings" / "coinbase_exchange.jsonl").read_bytes().splitlines()
BTC = InstrumentId(7)
IDS = {"BTC-USD": BTC}
MATCH: dict[str, Any] = json.loads(RECORDING[3])
TRADE: dict[str, Any] = {
    "trade_id": 74,
    "side": "sell",
    "size": "0.01000000",
    "price": "10.00000000",
    "time": "2014-11-07T22:19:28.578544Z",
}


def test_recorded_matches_become_ticks_with_the_makers_side() -> None:
    ticks = [tick for frame in RECORDING for tick in parse(frame, IDS)]
    assert ticks == [
        Tick(BTC, 90, 1415348367028459, Decimal("400.23"), Decimal("5.23512"), False),
        Tick(BTC, 91, 1415348368500000, Decimal("400.24000000"), Decimal("0.00000001"), True),
    ]
    assert str(ticks[1].price) == "400.24000000"


@pytest.mark.parametrize(
    "changes",
    [
        {"price": "0"},
        {"price": "NaN"},
        {"price": "1E+30"},
        {"price": None},
        {"size": "-1"},
        {"size": "1E-19"},
        {"trade_id": -1},
        {"trade_id": "91"},
        {"sequence": 1.5},
        {"sequence": None},
        {"side": "hold"},
        {"product_id": 5},
        {"time": "2014-11-07T08:19:28.5"},
        {"time": "1999-11-07T08:19:28Z"},
        {"time": 1415348368},
        {"type": "match", "time": "9999-12-31T23:59:59.999999Z"},
    ],
    ids=str,
)
def test_impossible_value_is_garbage(changes: dict[str, Any]) -> None:
    with pytest.raises(GarbageFrame):
        parse(encode({**MATCH, **changes}), IDS)


@pytest.mark.parametrize("field", ["type", "trade_id", "sequence", "product_id", "price", "size", "side", "time"])
def test_missing_field_is_garbage(field: str) -> None:
    with pytest.raises(GarbageFrame):
        parse(encode({key: value for key, value in MATCH.items() if key != field}), IDS)


@pytest.mark.parametrize("frame", BROKEN, ids=lambda frame: repr(frame[:12]))
def test_frame_that_is_no_message_is_garbage(frame: bytes) -> None:
    with pytest.raises(GarbageFrame):
        parse(frame, IDS)


def test_error_carries_the_servers_words() -> None:
    frame = {"type": "error", "message": "Failed to subscribe", "reason": "NOPE-USD is not a valid product"}
    with pytest.raises(RequestRefused, match="Failed to subscribe: NOPE-USD is not a valid product"):
        parse(encode(frame), IDS)
    with pytest.raises(RequestRefused, match="without a message"):
        parse(b'{"type":"error"}', IDS)


def test_source_subscribes_to_matches_and_heartbeats() -> None:
    source = coinbase("trade", "ws://127.0.0.1:1")
    assert json.loads(source.subscribe(["BTC-USD", "ETH-EUR"], 1)) == {
        "type": "subscribe",
        "product_ids": ["BTC-USD", "ETH-EUR"],
        "channels": ["matches", "heartbeat"],
    }
    assert json.loads(source.unsubscribe(["BTC-USD"], 2))["type"] == "unsubscribe"
    with pytest.raises(ValueError, match="no feed 'aggTrade'"):
        coinbase("aggTrade")


def test_history_page_is_asked_below_and_read_backwards() -> None:
    history = coinbase_history("http://127.0.0.1:1/")
    assert history.page("BTC-USD", 5, 0) == "/products/BTC-USD/trades?after=1005&limit=1000"
    assert isinstance(history.locate, ById)
    assert history.locate.request("BTC-USD", None) == "/products/BTC-USD/trades?limit=1"
    assert history.locate.request("A/B", 9) == "/products/A%2FB/trades?after=10&limit=1"
    ticks = parse_page(encode([TRADE, {**TRADE, "trade_id": 73, "side": "buy"}]), BTC)
    assert ticks == [
        Tick(BTC, 73, 1415398768578544, Decimal("10.00000000"), Decimal("0.01000000"), True),
        Tick(BTC, 74, 1415398768578544, Decimal("10.00000000"), Decimal("0.01000000"), False),
    ]


def test_match_and_page_give_a_trade_the_same_key() -> None:
    (live,) = parse(encode(MATCH), IDS)
    (past,) = parse_page(encode([{key: MATCH[key] for key in TRADE}]), BTC)
    assert live == past


@pytest.mark.parametrize("body", [*BROKEN[:2], *BROKEN[3:], b'{"message":"NotFound"}', b"[{}]"], ids=repr)
def test_page_that_is_none_is_garbage(body: bytes) -> None:
    with pytest.raises(GarbageFrame):
        parse_page(body, BTC)


@given(st.one_of(st.binary(), st.text()))
def test_any_bytes_give_ticks_or_a_known_exception(frame: bytes | str) -> None:
    check(lambda: parse(frame, IDS))


@given(altered(MATCH), altered(TRADE))
def test_any_altered_message_gives_ticks_or_a_known_exception(match: dict[str, Any], trade: dict[str, Any]) -> None:
    check(lambda: parse(encode(match), IDS))
    check(lambda: parse_page(encode([TRADE, trade]), BTC))


@given(damaged(RECORDING))
def test_any_damaged_recording_gives_ticks_or_a_known_exception(frame: bytes) -> None:
    check(lambda: parse(frame, IDS))
