import contextlib
from datetime import UTC, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.binance.wire.errors import BinanceError, bad_ticker_type, too_much_weight
from app.binance.wire.parameters import Parameters, offset_of, time_unit
from app.binance.wire.weights import weight
from app.market.intervals import Interval
from app.market.model import MAX_TIME_US

ALLOWED = ("symbol", "symbols", "interval", "limit", "fromId", "startTime", "timeZone", "windowSize", "type", "flag")
READERS = {
    "symbol": lambda asked: asked.required("symbol"),
    "symbols": lambda asked: asked.names("symbols", 3),
    "interval": lambda asked: asked.interval(),
    "limit": lambda asked: asked.limit(),
    "fromId": lambda asked: asked.integer("fromId"),
    "startTime": lambda asked: asked.time("startTime"),
    "timeZone": lambda asked: asked.zone(),
    "windowSize": lambda asked: asked.window(),
    "type": lambda asked: asked.choice("type", ("FULL", "MINI"), "FULL", bad_ticker_type()),
    "flag": lambda asked: asked.boolean("flag", True),
}


def asked(**sent: str) -> Parameters:
    return Parameters(sent.items(), ALLOWED)


def read(name: str, value: str | None) -> Any:
    return READERS[name](asked(**{name: value} if value is not None else {}))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("symbol", "BTCUSDT", "BTCUSDT"),
        ("symbol", "COINBASE.BTC-USD_1", "COINBASE.BTC-USD_1"),
        ("symbols", None, None),
        ("symbols", '["BTCUSDT", "ETHUSDT"]', ["BTCUSDT", "ETHUSDT"]),
        ("interval", "1M", Interval.MONTH),
        ("interval", "1m", Interval.M1),
        ("limit", None, 500),
        ("limit", "1", 1),
        ("limit", "1000", 1000),
        ("limit", "1001", 1000),
        ("limit", "99999999999999999999", 1000),
        ("fromId", "0", 0),
        ("fromId", str(2**63 - 1), 2**63 - 1),
        ("startTime", None, None),
        ("startTime", "0", (0, 999)),
        ("startTime", "1499040000000", (1499040000000_000, 1499040000000_999)),
        ("startTime", "1499040000000123", (1499040000000_123, 1499040000000_123)),
        ("startTime", "99999999999999999999", (MAX_TIME_US - 1, MAX_TIME_US - 1)),
        ("startTime", "9999999999999", (MAX_TIME_US - 1, MAX_TIME_US - 1)),
        ("timeZone", None, UTC),
        ("timeZone", "0", UTC),
        ("timeZone", "8", timezone(timedelta(hours=8))),
        ("timeZone", "-1:00", timezone(timedelta(hours=-1))),
        ("timeZone", "05:45", timezone(timedelta(hours=5, minutes=45))),
        ("timeZone", "+08:00", timezone(timedelta(hours=8))),
        ("timeZone", " 08:00", timezone(timedelta(hours=8))),
        ("timeZone", "-12:00", timezone(timedelta(hours=-12))),
        ("timeZone", "14", timezone(timedelta(hours=14))),
        ("windowSize", None, timedelta(days=1)),
        ("windowSize", "59m", timedelta(minutes=59)),
        ("windowSize", "23h", timedelta(hours=23)),
        ("windowSize", "7d", timedelta(days=7)),
        ("type", None, "FULL"),
        ("type", "MINI", "MINI"),
        ("flag", "false", False),
        ("flag", None, True),
    ],
)
def test_parameter_of_a_published_form_is_understood(name: str, value: str | None, expected: object) -> None:
    assert read(name, value) == expected


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("symbol", None, -1102),
        ("symbol", "", -1102),
        ("symbol", "btcusdt", -1100),
        ("symbol", "BTC/USDT", -1100),
        ("symbol", "BTC USDT", -1100),
        ("symbol", "BTCUSDT\n", -1100),
        ("symbol", "BTC\0USDT", -1100),
        ("symbol", "'; DROP TABLE ticks", -1100),
        ("symbol", "A" * 81, -1100),
        ("symbol", "\uff22TC", -1100),
        ("symbols", "", -1102),
        ("symbols", "[]", -1102),
        ("symbols", "BTCUSDT", -1100),
        ("symbols", '["BTCUSDT"', -1100),
        ("symbols", '["btcusdt"]', -1100),
        ("symbols", "[1]", -1100),
        ("symbols", "null", -1100),
        ("symbols", '{"a":1}', -1100),
        ("symbols", "[" * 100_000, -1100),
        ("symbols", '["\ud800"]', -1100),
        ("symbols", '["A","B","A"]', -1151),
        ("symbols", '["A","B","C","D"]', -1101),
        ("interval", None, -1102),
        ("interval", "", -1102),
        ("interval", "2m", -1120),
        ("interval", "1D", -1120),
        ("limit", "", -1105),
        ("limit", "0", -1130),
        ("limit", "-1", -1100),
        ("limit", "1.5", -1100),
        ("limit", "1e3", -1100),
        ("limit", "١٢٣", -1100),
        ("limit", "²", -1100),
        ("limit", " 5", -1100),
        ("limit", "5\n", -1100),
        ("limit", "1" * 21, -1100),
        ("fromId", str(2**63), -1130),
        ("fromId", "null", -1100),
        ("startTime", "-1", -1100),
        ("startTime", "2021-01-08", -1100),
        ("startTime", "1" * 5000, -1100),
        ("timeZone", "", -1105),
        ("timeZone", "14:01", -1130),
        ("timeZone", "-12:01", -1130),
        ("timeZone", "15", -1130),
        ("timeZone", "8:60", -1130),
        ("timeZone", "8:0", -1130),
        ("timeZone", "٨", -1130),
        ("timeZone", "UTC", -1130),
        ("timeZone", "Europe/Berlin", -1130),
        ("windowSize", "60m", -1130),
        ("windowSize", "0m", -1130),
        ("windowSize", "24h", -1130),
        ("windowSize", "8d", -1130),
        ("windowSize", "1d2h", -1130),
        ("windowSize", "1w", -1130),
        ("type", "full", -1139),
        ("flag", "yes", -1130),
    ],
)
def test_parameter_that_is_wrong_is_refused_with_its_code(name: str, value: str | None, code: int) -> None:
    with pytest.raises(BinanceError) as refused:
        read(name, value)
    assert (refused.value.code, refused.value.status) == (code, 400)


def test_illegal_characters_are_answered_with_the_legal_range() -> None:
    with pytest.raises(BinanceError) as refused:
        read("limit", "x")
    assert refused.value.body == {
        "code": -1100,
        "msg": "Illegal characters found in parameter 'limit'; legal range is '^[0-9]{1,20}$'.",
    }


def test_parameter_that_the_call_does_not_know_is_too_many() -> None:
    with pytest.raises(BinanceError, match="Too many parameters; expected '2' and received '3'") as refused:
        asked(symbol="A", interval="1m", nonsense="1")
    assert refused.value.code == -1101


def test_parameter_that_comes_twice_is_refused() -> None:
    with pytest.raises(BinanceError, match="Duplicate values for a parameter detected") as refused:
        Parameters([("symbol", "A"), ("symbol", "A")], ALLOWED)
    assert refused.value.code == -1101


@given(st.sampled_from(sorted(READERS)), st.text())
def test_parameter_of_any_text_is_read_or_refused(name: str, text: str) -> None:
    with contextlib.suppress(BinanceError):
        read(name, text)


@given(st.integers(-12 * 60, 14 * 60))
def test_offset_of_every_minute_in_the_range_is_its_zone(minutes: int) -> None:
    sign, (hours, rest) = "-" if minutes < 0 else "", divmod(abs(minutes), 60)
    zone = offset_of(f"{sign}{hours:02}:{rest:02}")
    assert zone is not None
    assert zone.utcoffset(None) == timedelta(minutes=minutes)


@pytest.mark.parametrize(("value", "unit"), [(None, 1000), ("MILLISECOND", 1000), ("millisecond", 1000)])
def test_time_unit_is_milliseconds_unless_microseconds_are_asked_for(value: str | None, unit: int) -> None:
    assert time_unit(value) == unit
    assert time_unit("MICROSECOND") == time_unit("microsecond") == 1


@pytest.mark.parametrize("value", ["", "Microsecond", "NANOSECOND", "1"])
def test_time_unit_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(BinanceError, match="expected either MICROSECOND or MILLISECOND") as refused:
        time_unit(value)
    assert refused.value.code == -1194


def test_weight_beyond_the_limit_tells_when_to_come_back() -> None:
    error = too_much_weight(6000, 17)
    assert (error.code, error.status, error.retry_after) == (-1003, 429, 17)
    assert "current limit is 6000 request weight per 1 MINUTE" in str(error)


@pytest.mark.parametrize(
    ("call", "query", "expected"),
    [
        ("ping", {}, 1),
        ("klines", {}, 2),
        ("trades", {}, 25),
        ("ticker/price", {"symbol": "A"}, 2),
        ("ticker/price", {"symbols": '["A"]'}, 4),
        ("ticker/bookTicker", {}, 4),
        ("ticker/24hr", {"symbol": "A"}, 2),
        ("ticker/24hr", {"symbols": ",".join("A" * 20)}, 2),
        ("ticker/24hr", {"symbols": ",".join("A" * 21)}, 40),
        ("ticker/24hr", {"symbols": ",".join("A" * 100)}, 40),
        ("ticker/24hr", {"symbols": ",".join("A" * 101)}, 80),
        ("ticker/24hr", {}, 80),
        ("ticker", {"symbol": "A"}, 4),
        ("ticker", {"symbols": "A,B,C"}, 12),
        ("ticker", {"symbols": ",".join("A" * 51)}, 200),
        ("ticker", {}, 4),
    ],
)
def test_weight_of_a_call_is_the_published_one(call: str, query: dict[str, str], expected: int) -> None:
    assert weight(call, query) == expected
