"""What instruments are called in Binance's style: unique over all sources, and the same for ever."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.binance.names import Names
from app.binance.wire.errors import BinanceError
from app.errors import DatabaseUnavailable
from app.market.model import Instrument, InstrumentId
from app.market.registry import Registry


def instrument(
    number: int, symbol: str, base: str | None = None, quote: str | None = None, *, active: bool = True
) -> Instrument:
    source, _, ticker = symbol.partition(":")
    return Instrument(InstrumentId(number), symbol, source, ticker, base, quote, "spot", 2, "trade", True, active)


def names(*instruments: Instrument) -> Names:
    registry = Registry()
    registry.replace(instruments)
    return Names(registry)


BINANCE = instrument(1, "BINANCE:BTCUSD", "BTC", "USD")
COINBASE = instrument(2, "COINBASE:BTC-USD", "BTC", "USD")
COINBASE_TOO = instrument(7, "COINBASE:BTC/USD", "BTC", "USD")
BEER = instrument(9, "SHOP:BEER-0.5L")


def test_first_to_claim_a_name_has_it_and_later_ones_are_prefixed_with_their_source() -> None:
    made = names(COINBASE_TOO, COINBASE, BEER, BINANCE)
    assert [made.name_of(one) for one in (BINANCE, COINBASE, COINBASE_TOO, BEER)] == [
        "BTCUSD",
        "COINBASE.BTCUSD",
        "COINBASE.BTCUSD.7",
        "BEER05L",
    ]
    assert made.all == [
        ("BEER05L", BEER),
        ("BTCUSD", BINANCE),
        ("COINBASE.BTCUSD", COINBASE),
        ("COINBASE.BTCUSD.7", COINBASE_TOO),
    ]


def test_instrument_is_found_by_its_prefixed_name_too_where_the_plain_one_is_its_own() -> None:
    made = names(BINANCE, COINBASE, COINBASE_TOO, BEER)
    assert made.find("BINANCE.BTCUSD") is made.find("BTCUSD") is BINANCE
    assert made.find("SHOP.BEER05L.9") is BEER
    assert made.find("COINBASE.BTCUSD.2") is COINBASE


@pytest.mark.parametrize(
    "name",
    ["", "btcusd", "BTC-USD", "BINANCE:BTCUSD", "KRAKEN.BTCUSD", "BTCUSD ", "BTCUSD\0", "\uff22TCUSD", "X" * 9999],
)
def test_anything_else_is_no_symbol(name: str) -> None:
    made = names(BINANCE, COINBASE)
    assert made.get(name) is None
    with pytest.raises(BinanceError, match="Invalid symbol") as caught:
        made.find(name)
    assert caught.value.code == -1121


def test_base_and_quote_spell_the_name_of_a_pair() -> None:
    made = names(BINANCE, COINBASE, COINBASE_TOO)
    assert [made.assets_of(one) for one in (BINANCE, COINBASE, COINBASE_TOO)] == [
        ("BTC", "USD"),
        ("COINBASE.BTC", "USD"),
        ("COINBASE.BTC.7", "USD"),
    ]


def test_base_and_quote_are_unique_though_the_tickers_differ() -> None:
    """Clients name a market by them: of two that are alike they would know one, and take its prices for the other's."""
    other = instrument(3, "KRAKEN:XBT/USD", "BTC", "USD")
    made = names(BINANCE, other, instrument(4, "SHOP:BTC", None, "USD"), instrument(5, "SIM:BTC-USDT", "BTC", "USDT"))
    told = {name: made.assets_of(one) for name, one in made.all}
    assert told == {
        "BTCUSD": ("BTC", "USD"),
        "XBTUSD": ("KRAKEN.BTC", "USD"),
        "BTC": ("SHOP.BTC", "USD"),
        "BTCUSDT": ("BTC", "USDT"),
    }


def test_unknown_base_is_the_name_and_unknown_quote_no_currency() -> None:
    taken = instrument(3, "KRAKEN:BTCUSD", None, "USD")
    twin = instrument(4, "TWIN:TWIN", "TWIN", "USD")
    made = names(BINANCE, taken, twin, instrument(5, "TWINS:TWIN", "TWIN", "USD"), BEER)
    assert made.assets_of(BEER) == ("BEER05L", "XXX")
    assert made.assets_of(taken) == ("KRAKEN.BTCUSD", "USD")
    assert made.assets_of(twin) == ("TWIN", "USD")


_tickers = st.from_regex(r"[AB1][AB1._/-]{0,3}", fullmatch=True)
_symbols = st.lists(st.tuples(st.sampled_from(["A", "B", "A_B"]), _tickers), unique=True, max_size=12)


@given(_symbols, st.data())
def test_names_are_unique_and_never_come_to_mean_another_instrument(
    symbols: list[tuple[str, str]], data: st.DataObject
) -> None:
    bases = data.draw(st.lists(st.sampled_from([None, "A", "B", "A.1"]), min_size=12, max_size=12))
    everyone = [
        instrument(number, f"{source}:{ticker}", base, "USD")
        for number, ((source, ticker), base) in enumerate(zip(symbols, bases, strict=False), 1)
    ]
    registry = Registry()
    registry.replace([])
    made = Names(registry)
    meant: dict[str, Instrument] = {}
    for count in range(len(everyone) + 1):
        registry.replace(data.draw(st.permutations(everyone[:count])))
        known = dict(made.all)
        assert set(map(id, known.values())) == set(map(id, everyone[:count]))
        assert meant.items() <= known.items()
        meant = known
        assert len({made.assets_of(one) for one in known.values()}) == count
        for name, one in known.items():
            assert made.find(name) is one
            assert made.name_of(one) == name


def test_names_follow_the_registry() -> None:
    registry = Registry()
    made = Names(registry)
    with pytest.raises(DatabaseUnavailable):
        made.get("BTCUSD")
    with pytest.raises(DatabaseUnavailable):
        made.all  # noqa: B018
    registry.replace([])
    assert made.all == []
    registry.replace([BINANCE])
    assert made.find("BTCUSD") is BINANCE
    idle = instrument(1, "BINANCE:BTCUSD", active=False)
    registry.replace([idle])
    assert made.find("BTCUSD") is idle
