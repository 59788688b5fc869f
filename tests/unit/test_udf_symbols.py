"""Instruments as TradingView describes them, and the search for them."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.market.model import Instrument, InstrumentId
from app.udf import symbols
from app.udf.resolutions import RESOLUTIONS


def instrument(symbol: str, base: str | None = None, quote: str | None = None, **fields: Any) -> Instrument:
    source, _, ticker = symbol.partition(":")
    told: dict[str, Any] = {"kind": "spot", "price_scale": 2, "feed": "trade", "contiguous_ids": True, "active": True}
    return Instrument(InstrumentId(1), symbol, source, ticker, base, quote, **(told | fields))


ALL = [
    instrument("BINANCE:BTCDOMUSDT", "BTCDOM", "USDT"),
    instrument("BINANCE:BTCUSDT", "BTC", "USDT"),
    instrument("BINANCE:ETHBTC", "ETH", "BTC"),
    instrument("BINANCE:WBTCETH", "WBTC", "ETH"),
    instrument("COINBASE:BTC-USD", "BTC", "USD"),
    instrument("KRAKEN:EUR/USD", "EUR", "USD", kind="fx"),
    instrument("SHOP:COFFEE-1KG", None, "EUR", kind="good"),
]


def found(query: str, kind: str = "", exchange: str = "", limit: int = 30) -> list[str]:
    return [match.ticker for match in symbols.search(ALL, query, kind, exchange, limit)]


@pytest.mark.parametrize(
    ("query", "tickers"),
    [
        ("BTC", ["BINANCE:BTCUSDT", "COINBASE:BTC-USD", "BINANCE:BTCDOMUSDT", "BINANCE:ETHBTC", "BINANCE:WBTCETH"]),
        ("btcusdt", ["BINANCE:BTCUSDT"]),
        ("BTC/USD", ["COINBASE:BTC-USD", "BINANCE:BTCUSDT"]),
        ("btc-usd", ["COINBASE:BTC-USD", "BINANCE:BTCUSDT"]),
        (" eurusd ", ["KRAKEN:EUR/USD"]),
        ("usdt", ["BINANCE:BTCUSDT", "BINANCE:BTCDOMUSDT"]),
        ("coffee", ["SHOP:COFFEE-1KG"]),
        ("coinbase", ["COINBASE:BTC-USD"]),
        ("COINBASE:", ["COINBASE:BTC-USD"]),
        ("binance:eth", ["BINANCE:ETHBTC", "BINANCE:WBTCETH"]),
        ("NOWHERE:BTC", []),
        ("COINBASEBTCUSD", ["COINBASE:BTC-USD"]),
        ("xyz", []),
        ("💥", []),
        ("٣", []),
        ("//", []),
        ("x" * 8000, []),
    ],
)
def test_search_gives_the_best_matches_first(query: str, tickers: list[str]) -> None:
    assert found(query) == tickers


def test_search_filters_by_type_and_exchange_and_stops_at_the_limit() -> None:
    assert len(found("")) == len(ALL)
    assert found("", kind="forex") == ["KRAKEN:EUR/USD"]
    assert found("", kind="Commodity") == ["SHOP:COFFEE-1KG"]
    assert found("btc", exchange="coinbase") == ["COINBASE:BTC-USD"]
    assert found("btc", kind="stock") == found("btc", exchange="NYSE") == []
    assert found("btc", limit=2) == ["BINANCE:BTCUSDT", "COINBASE:BTC-USD"]


@given(st.text(max_size=30), st.text(max_size=10), st.text(max_size=10), st.integers(1, 5))
def test_search_takes_any_text_and_keeps_to_the_limit(query: str, kind: str, exchange: str, limit: int) -> None:
    assert len(found(query, kind, exchange, limit)) <= limit


def test_match_names_what_clients_ask_with() -> None:
    (match,) = symbols.search(ALL, "eur/usd", "", "", 30)
    assert (match.symbol, match.ticker, match.full_name) == ("EUR/USD", "KRAKEN:EUR/USD", "KRAKEN:EUR/USD")
    assert (match.exchange, match.type, match.description) == ("KRAKEN", "forex", "EUR / USD")


@pytest.mark.parametrize(("places", "scale"), [(0, 1), (2, 100), (8, 100_000_000), (18, 10**18)])
def test_symbol_has_a_price_scale_of_the_places_shown(places: int, scale: int) -> None:
    made = symbols.symbol(instrument("SIM:X", price_scale=places))
    assert (made.minmov, made.pricescale) == (1, scale)


def test_symbol_lists_a_multiplier_for_each_resolution() -> None:
    made = symbols.symbol(ALL[1])
    days = [f"{count}D" for count in made.daily_multipliers]
    parts = [f"{count}S" for count in made.seconds_multipliers] + made.intraday_multipliers + days
    assert made.supported_resolutions == [*parts, "1W", "1M"] == [*RESOLUTIONS]


def test_symbol_of_what_is_not_tracked_does_not_stream() -> None:
    assert symbols.symbol(ALL[0]).data_status == "streaming"
    assert symbols.symbol(instrument("SIM:X", active=False)).data_status == "endofday"


def test_symbol_without_base_or_quote_is_described_by_its_ticker() -> None:
    made = symbols.symbol(instrument("SIM:X", "X"))
    assert made.description == "X"
    assert b"currency_code" not in msgspec.json.encode(made)


def test_configuration_lists_sources_and_types() -> None:
    made = symbols.configuration(ALL)
    assert [exchange.value for exchange in made.exchanges] == ["", "BINANCE", "COINBASE", "KRAKEN", "SHOP"]
    assert [kind.value for kind in made.symbols_types] == ["", "crypto", "forex", "commodity"]
    assert made.supports_search
    assert not made.supports_group_request
