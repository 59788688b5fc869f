"""How Binance's clients are told news: fields, units, paces, and what only those are told who asked for it."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from app.binance import forms as forms_module
from app.binance.forms import BinanceForm, Forms
from app.binance.names import Names
from app.binance.wire.streams import parse
from app.market.candles import OpenCandle
from app.market.intervals import Interval, next_bucket
from app.market.model import Candle, Tick, to_micros
from app.market.registry import Registry
from app.market.rolling import RollingDay
from app.stream.form import Gap
from app.stream.keys import CandlesKey
from app.stream.topics import trade_of
from tests.unit.stream_table import START, instrument, tick

ONE = instrument(1, ticker="ONE-X")
NOW_US = to_micros(START) + 1_500_000
NOW_MS = NOW_US // 1_000


@pytest.fixture
def forms(monkeypatch: pytest.MonkeyPatch) -> Forms:
    monkeypatch.setattr(forms_module, "now_us", lambda: NOW_US)
    registry = Registry()
    registry.replace([ONE])
    return Forms(Names(registry))


def form(forms: Forms, name: str, *extensions: str, unit: int = 1_000) -> BinanceForm:
    stream = parse(name)
    assert stream is not None
    return forms.of(stream, unit, extensions)


def told(text: str | None) -> Any:
    assert text is not None
    return json.loads(text)


def candle_of(*ticks: Tick, interval: Interval = Interval.M1, closed: bool = True) -> Candle:
    series = OpenCandle(START, next_bucket(START, interval), ticks[0])
    for one in ticks[1:]:
        series.add(one)
    return series.candle(closed=closed, contiguous_ids=True)


def day_of(*ticks: Tick) -> RollingDay:
    day = RollingDay()
    for one in ticks:
        assert day.add(one)
    return day


@pytest.mark.parametrize(
    ("name", "pace"),
    [
        ("onex@kline_1s", 1),
        ("onex@kline_1m", 2),
        ("onex@kline_1M@+08:00", 2),
        ("onex@ticker", 1),
        ("onex@avgPrice", 1),
        ("!miniTicker@arr", 1),
    ],
)
def test_open_klines_and_tickers_are_told_at_the_published_speed(forms: Forms, name: str, pace: int) -> None:
    assert form(forms, name).pace == pace


def test_streams_of_one_style_share_a_form_and_others_do_not(forms: Forms) -> None:
    one = form(forms, "onex@kline_1m")
    assert form(forms, "two@kline_1d@+08:00") is one
    others = [
        form(forms, "onex@kline_1s"),
        form(forms, "onex@kline_1m", unit=1),
        form(forms, "onex@kline_1m", "correction"),
        form(forms, "onex@trade"),
        form(forms, "onex@aggTrade"),
        form(forms, "onex@miniTicker"),
    ]
    assert len({one, *others}) == 7
    assert form(forms, "!miniTicker@arr") is form(forms, "onex@miniTicker")
    assert form(forms, "onex@kline_1m", "gap") is one, "it concerns trades alone"


def test_trade_is_told_with_the_digits_that_were_stored(forms: Forms) -> None:
    trade = trade_of(tick(7, 1.25, price="100.10", size="0.500"))
    event = {"e": "trade", "E": NOW_MS, "s": "ONEX", "t": 7, "p": "100.10", "q": "0.500", "T": NOW_MS - 250}
    assert told(form(forms, "onex@trade").trade(ONE, trade)) == {**event, "m": False, "M": True}
    micros = told(form(forms, "onex@trade", unit=1).trade(ONE, trade))
    assert (micros["E"], micros["T"]) == (NOW_US, NOW_US - 250_000)
    aggregate = told(form(forms, "onex@aggTrade").trade(ONE, trade))
    assert (aggregate["e"], aggregate["a"], aggregate["f"], aggregate["l"]) == ("aggTrade", 7, 7, 7)


@pytest.mark.parametrize(("maker", "told_as"), [(True, True), (False, False), (None, True)])
def test_trade_without_a_side_counts_as_none_of_the_takers_purchases(
    forms: Forms, maker: bool | None, told_as: bool
) -> None:
    for name in ("onex@trade", "onex@aggTrade"):
        assert told(form(forms, name).trade(ONE, trade_of(tick(7, maker=maker))))["m"] is told_as


def test_kline_is_the_candle_to_the_digit(forms: Forms) -> None:
    candle = candle_of(tick(1, price="100.10", size="0.50"), tick(2, 1, price="99.9", size="0.250", maker=True))
    event = told(form(forms, "onex@kline_1m").candle(ONE, CandlesKey(ONE.id, Interval.M1, "UTC"), candle))
    start = to_micros(START) // 1_000
    assert (event["e"], event["E"], event["s"]) == ("kline", NOW_MS, "ONEX")
    k = event["k"]
    assert (k["t"], k["T"], k["s"], k["i"], k["f"], k["L"], k["n"]) == (start, start + 59_999, "ONEX", "1m", 1, 2, 2)
    assert (k["o"], k["h"], k["l"], k["c"]) == ("100.10", "100.10", "99.9", "99.9")
    assert (k["v"], k["q"]) == (candle.volume, candle.quote_volume) == ("0.750", "75.0250")
    assert (k["V"], k["Q"]) == (candle.taker_buy_volume, candle.taker_buy_quote_volume) == ("0.50", "50.0500")
    assert (k["x"], k["B"]) == (True, "0")


def test_kline_of_another_zone_ends_where_the_next_begins_there(forms: Forms) -> None:
    key = CandlesKey(ONE.id, Interval.MONTH, "+08:00")
    candle = candle_of(tick(1))
    candle.time = datetime(2026, 2, 28, 16, tzinfo=UTC)
    event = told(form(forms, "onex@kline_1M@+08:00", unit=1).candle(ONE, key, candle))
    assert event["k"]["T"] == to_micros(datetime(2026, 3, 31, 16, tzinfo=UTC)) - 1


def test_subscription_begins_with_the_open_kline_and_no_closed_one(forms: Forms) -> None:
    kline = form(forms, "onex@kline_1m")
    key = CandlesKey(ONE.id, Interval.M1, "UTC")
    closed, open_ = candle_of(tick(1)), candle_of(tick(2), closed=False)
    assert told(kline.first_candles(ONE, key, [closed, open_]))["k"]["x"] is False
    assert kline.first_candles(ONE, key, [closed]) is None
    assert kline.first_candles(ONE, key, []) is None


def test_only_who_asked_is_told_of_gaps(forms: Forms) -> None:
    gap = Gap(3, 5, "missing")
    for name in ("onex@trade", "onex@aggTrade"):
        assert form(forms, name).gap(ONE, gap) is None
        assert form(forms, name, "correction").gap(ONE, gap) is None
        event = told(form(forms, name, "correction", "gap").gap(ONE, gap))
        assert event == {"e": "gap", "E": NOW_MS, "s": "ONEX", "f": 3, "l": 5, "r": "missing"}


def test_only_who_asked_is_told_of_corrections(forms: Forms) -> None:
    key, candle = CandlesKey(ONE.id, Interval.M1, "UTC"), candle_of(tick(1))
    plain, asked = form(forms, "onex@kline_1m"), form(forms, "onex@kline_1m", "correction")
    assert plain.correction(ONE, key, candle) is None
    assert plain.reset_candles(ONE, key) is None
    event = told(asked.correction(ONE, key, candle))
    assert event == {**told(plain.candle(ONE, key, candle)), "e": "klineCorrection"}
    assert told(asked.reset_candles(ONE, key)) == {"e": "klineReset", "E": NOW_MS, "s": "ONEX", "i": "1m"}


def test_tickers_tell_of_the_rolling_day(forms: Forms) -> None:
    now = START + timedelta(seconds=3)
    day = day_of(tick(1, price="100.10"), tick(2, 1, price="101.0", size="0.25"))
    full = told(form(forms, "onex@ticker").ticker(ONE, day, now))
    assert (full["e"], full["s"], full["o"], full["c"], full["p"]) == ("24hrTicker", "ONEX", "100.10", "101.0", "0.90")
    assert (full["C"], full["O"]) == (full["E"], to_micros(START - timedelta(days=1)) // 1_000)
    mini = told(form(forms, "onex@miniTicker", unit=1).ticker(ONE, day, now))
    assert (mini["e"], mini["E"], mini["s"]) == ("24hrMiniTicker", to_micros(now), "ONEX")
    assert (mini["o"], mini["h"], mini["l"], mini["c"]) == ("100.10", "101.0", "100.10", "101.0")
    assert (mini["v"], mini["q"]) == (full["v"], full["q"]) == ("0.75", "75.3000")


def test_average_price_is_that_of_the_last_five_minutes(forms: Forms) -> None:
    day = day_of(tick(1, price="50"), tick(2, 600, price="100", size="1"), tick(3, 601, price="103", size="2"))
    event = told(form(forms, "onex@avgPrice").ticker(ONE, day, START + timedelta(seconds=602)))
    assert (event["e"], event["i"], event["T"]) == ("avgPrice", "5m", to_micros(START) // 1_000 + 601_000)
    assert Decimal(event["w"]) == 102


def test_instrument_that_never_traded_has_no_ticker(forms: Forms) -> None:
    for name in ("onex@ticker", "onex@miniTicker", "onex@avgPrice", "!ticker@arr"):
        assert form(forms, name).ticker(ONE, RollingDay(), START) is None
        assert form(forms, name).first_ticker(ONE, RollingDay(), START) is None


def test_ticker_begins_with_the_newest(forms: Forms) -> None:
    assert form(forms, "onex@ticker").first_ticker(ONE, day_of(tick(1)), START)


def test_trade_streams_begin_with_nothing_of_the_past(forms: Forms) -> None:
    trades = form(forms, "onex@trade")
    assert trades.snapshot_trades == 0
    assert trades.first_trades(ONE, [trade_of(tick(1))]) is None
    assert trades.reset_trades(ONE) is None


def test_name_is_that_of_the_instrument_whatever_the_client_called_it(forms: Forms) -> None:
    registry = Registry()
    registry.replace([ONE, instrument(2, ticker="ONEX")])
    names = Names(registry)
    for one in registry.all:
        event = told(form(Forms(names), "test.onex@trade").trade(one, trade_of(tick(1))))
        assert event["s"] == names.name_of(one)
