"""How a symbol finds its instrument."""

import pytest

from app.errors import DatabaseUnavailable, InvalidParameter, UnknownSymbol
from app.market.model import Instrument, InstrumentId
from app.market.registry import Registry


def instrument(number: int, source: str, ticker: str) -> Instrument:
    return Instrument(
        InstrumentId(number), f"{source}:{ticker}", source, ticker, None, None, "spot", 2, "trade", True, True
    )


@pytest.fixture
def registry() -> Registry:
    made = Registry()
    made.replace(
        [
            instrument(1, "BINANCE", "BTCUSDT"),
            instrument(2, "COINBASE", "BTC-USD"),
            instrument(3, "SIM", "BTCUSDT"),
            instrument(4, "BINANCE", "ETHUSDT"),
        ]
    )
    return made


@pytest.mark.parametrize("symbol", ["BINANCE:ETHUSDT", "binance:ethusdt", "ETHUSDT", "ethusdt"])
def test_symbol_in_any_case_and_unambiguous_ticker_are_found(registry: Registry, symbol: str) -> None:
    assert registry.find(symbol).id == 4


def test_ticker_of_several_sources_is_refused_with_the_choices(registry: Registry) -> None:
    with pytest.raises(InvalidParameter, match="BINANCE:BTCUSDT, SIM:BTCUSDT"):
        registry.find("BTCUSDT")


@pytest.mark.parametrize(("symbol", "near"), [("ETHUSD", "BINANCE:ETHUSDT"), ("COINBASE:BTCUSD", "COINBASE:BTC-USD")])
def test_unknown_symbol_names_those_that_come_close(registry: Registry, symbol: str, near: str) -> None:
    with pytest.raises(UnknownSymbol) as caught:
        registry.find(symbol)
    assert near in caught.value.near
    assert len(caught.value.near) <= 5


@pytest.mark.parametrize("symbol", ["", ":", "x" * 10_000, "Ünknown"])
def test_nonsense_is_unknown(registry: Registry, symbol: str) -> None:
    with pytest.raises(UnknownSymbol):
        registry.find(symbol)


def test_replaced_registry_knows_the_new_instruments_alone(registry: Registry) -> None:
    registry.replace([instrument(9, "SIM", "NEW")])
    assert [one.id for one in registry.all] == [9]
    with pytest.raises(UnknownSymbol):
        registry.find("ETHUSDT")


def test_before_the_first_reading_no_symbol_is_unknown() -> None:
    """Regression: a client that came while the server started was told that its symbol does not exist."""
    made = Registry()
    assert not made.filled
    with pytest.raises(DatabaseUnavailable):
        made.find("BINANCE:BTCUSDT")
    with pytest.raises(DatabaseUnavailable):
        made.all  # noqa: B018
    made.replace([])
    assert made.filled
    assert made.all == []
