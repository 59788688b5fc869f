"""What the URL of a websocket asks for, and what it cannot."""

from contextlib import suppress
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.binance.handshake import Handshake, UnknownStream, handshake, known
from app.binance.wire.errors import BinanceError
from app.binance.wire.streams import parse


@pytest.mark.parametrize(
    ("path", "query", "names"),
    [
        ("/ws", "", []),
        ("/ws/0", "", []),
        ("/ws/btcusdt@trade", "", ["btcusdt@trade"]),
        ("/ws/btcusdt@trade/!miniTicker@arr/0", "", ["btcusdt@trade", "!miniTicker@arr"]),
        ("/ws/!miniTicker@arr@1000ms", "", ["!miniTicker@arr@1000ms"]),
        ("/ws/btcusdt@kline_1d@+08:00", "", ["btcusdt@kline_1d@+08:00"]),
        ("/stream", "", []),
        ("/stream", "streams=", []),
        ("/stream", "streams=btcusdt@trade/ethusdt@ticker", ["btcusdt@trade", "ethusdt@ticker"]),
        ("/stream", "streams=btcusdt%40trade%2Fethusdt%40ticker", ["btcusdt@trade", "ethusdt@ticker"]),
        ("/stream", "streams=btcusdt@kline_1d@+08:00", ["btcusdt@kline_1d@+08:00"]),
        ("/stream", "streams=btcusdt@kline_1d@%2B08:00", ["btcusdt@kline_1d@+08:00"]),
        ("/stream", "streams=btcusdt@trade/btcusdt@trade", ["btcusdt@trade"]),
    ],
)
def test_streams_of_a_url_are_taken_each_once(path: str, query: str, names: list[str]) -> None:
    asked = handshake(path, query)
    assert asked == Handshake({name: parse(name) for name in names}, path == "/stream")


@pytest.mark.parametrize(
    "name",
    [
        "btcusdt@bookTicker",
        "btcusdt@depth",
        "btcusdt@depth5@100ms",
        "btcusdt@ticker_1h",
        "!bookTicker",
        "!ticker_1d@arr",
    ],
)
def test_stream_that_binance_alone_has_does_not_cost_the_others_of_its_url(name: str) -> None:
    asked = handshake("/stream", f"streams=btcusdt@trade/{name}")
    assert asked.streams == {"btcusdt@trade": parse("btcusdt@trade"), name: None}
    with pytest.raises(UnknownStream):
        known(name)


def test_symbol_in_upper_case_is_that_of_no_instrument() -> None:
    assert handshake("/ws/BTCUSDT@trade/btcusdt@trade", "").streams == {
        "BTCUSDT@trade": None,
        "btcusdt@trade": parse("btcusdt@trade"),
    }


@pytest.mark.parametrize(("unit", "micros"), [("MICROSECOND", 1), ("microsecond", 1), ("MILLISECOND", 1000)])
def test_unit_of_times_is_that_of_the_url(unit: str, micros: int) -> None:
    assert handshake("/stream", f"streams=btcusdt@trade&timeUnit={unit}").unit == micros


def test_extensions_and_resumption_are_what_the_url_asks_for() -> None:
    asked = handshake("/ws/btcusdt@trade/btcusdt@aggTrade", "resume=17&events=gap,correction")
    assert (asked.since, asked.extensions) == (17, ("gap", "correction"))


@pytest.mark.parametrize(
    ("path", "query", "reason"),
    [
        ("/ws/btcusdt@deep", "", "'btcusdt@deep'"),
        ("/ws/btcusdt@kline_7m", "", "'btcusdt@kline_7m'"),
        ("/ws/btcusdt@kline_1d@+15:00", "", "+15:00"),
        ("/ws/!", "", "'!'"),
        ("/ws/" + "/".join(f"t{number}@trade" for number in range(1025)), "", "1024"),
        ("/stream", "streams=btcusdt@trade&timeUnit=SECOND", "time unit"),
        ("/stream", "streams=btcusdt@trade&timeUnit=", "time unit"),
        ("/stream", "streams=btcusdt@trade&events=gaps", "'gaps'"),
        ("/stream", "resume=1", "only streams of trades"),
        ("/stream", "streams=&resume=1", "only streams of trades"),
        ("/ws/btcusdt@trade/btcusdt@kline_1m", "resume=1", "only streams of trades"),
        ("/ws/btcusdt@trade/!miniTicker@arr", "resume=1", "only streams of trades"),
        ("/ws/BTCUSDT@trade", "resume=1", "only streams of trades"),
        ("/ws/btcusdt@trade/ethusdt@trade", "resume=1", "one symbol"),
        ("/ws/btcusdt@trade", "resume=", "id of the last trade"),
        ("/ws/btcusdt@trade", "resume=-1", "id of the last trade"),
        ("/ws/btcusdt@trade", "resume=1.5", "id of the last trade"),
        ("/ws/btcusdt@trade", "resume=٣", "id of the last trade"),
        ("/ws/btcusdt@trade", "resume=" + "9" * 5_000, "id of the last trade"),
        ("/ws/btcusdt@trade", f"resume={2**63}", "id of the last trade"),
    ],
)
def test_url_that_cannot_be_served_is_refused_with_the_reason(path: str, query: str, reason: str) -> None:
    with pytest.raises(BinanceError) as refused:
        handshake(path, query)
    assert reason in str(refused.value)
    assert refused.value.status == 400


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_url_is_served_or_refused(path: str, query: str) -> None:
    for sent in (query, f"streams={query}", f"resume={quote(query)}", f"events={query}", f"timeUnit={query}"):
        with suppress(BinanceError):
            asked = handshake(f"/ws/btcusdt@trade/{path}", sent)
            assert all(stream is None or stream.name == name for name, stream in asked.streams.items())
