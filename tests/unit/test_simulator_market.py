import math
import random
from decimal import Decimal
from itertools import pairwise

import pytest

from app.errors import OperatorError
from app.market.model import InstrumentId, Tick
from ingest.simulator.listing import listing
from ingest.simulator.market import EPOCH_US, SECOND, Market
from ingest.simulator.tape import history

HOUR = 3600 * SECOND
DAY = 24 * HOUR
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDC", "SUIUSDC", "DOGEUSDC", "ETHBTC", "EURUSDT", "PEPEUSDT")

KNOWN_TRADE = (100000000, 1724067200003000, "95521.08000000", "0.01111000", False)


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_market_asked_in_any_order_gives_the_same_trades(symbol: str) -> None:
    in_order = Market(symbol, rate=7.3, seed=4).trades(5_000_000, 400)
    other = Market(symbol, rate=7.3, seed=4)
    ids = [trade.id for trade in in_order]
    random.Random(1).shuffle(ids)
    assert sorted((other.trade(trade_id) for trade_id in ids), key=lambda trade: trade.id) == in_order


def test_market_known_trade_is_the_same_in_every_process() -> None:
    trade = Market("BTCUSDT", rate=5, seed=1).trade(100_000_000)
    assert (trade.id, trade.time_us, trade.price, trade.size, trade.buyer_is_maker) == KNOWN_TRADE


def test_market_other_seed_gives_other_prices() -> None:
    first, second = Market("BTCUSDT", seed=1).trades(1000, 50), Market("BTCUSDT", seed=2).trades(1000, 50)
    assert all(one.price != other.price for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("rate", [0.01, 1, 5, 333.3, 20_000, 1_000_000])
def test_market_ids_are_contiguous_and_times_never_fall(rate: float) -> None:
    trades = Market("ETHUSDT", rate=rate).trades(999_990, 3000)
    assert [trade.id for trade in trades] == list(range(999_990, 1_002_990))
    assert all(one.time_us <= other.time_us for one, other in pairwise(trades))
    assert all(trade.time_us % 1000 == 0 for trade in trades)


@pytest.mark.parametrize("rate", [0.3, 5.0, 1000.0])
def test_market_rate_holds_over_a_day(rate: float) -> None:
    market = Market("BTCUSDT", rate=rate)
    start = EPOCH_US + 700 * DAY
    assert market.id_at(start + DAY) - market.id_at(start) == pytest.approx(rate * 86_400, abs=17)


@pytest.mark.parametrize("rate", [0.1, 5.0, 50_000.0])
def test_market_id_at_is_the_first_trade_not_before_the_time(rate: float) -> None:
    market = Market("BTCUSDT", rate=rate)
    for time_us in random.Random(2).sample(range(EPOCH_US + DAY, EPOCH_US + 1000 * DAY), 50):
        trade_id = market.id_at(time_us)
        assert market.trade(trade_id - 1).time_us < time_us <= market.trade(trade_id).time_us
        exact = market.trade(trade_id).time_us
        assert market.trade(market.id_at(exact)).time_us == exact
        assert market.trade(market.id_at(exact) - 1).time_us < exact


def test_market_before_its_epoch_is_empty() -> None:
    market = Market("BTCUSDT")
    assert market.id_at(EPOCH_US - DAY) == 1
    assert market.trades(-5, 10, EPOCH_US - 1) == []
    assert market.latest(10, EPOCH_US - DAY) == []
    with pytest.raises(LookupError):
        market.trade(0)


def test_market_trades_stop_at_the_time_asked() -> None:
    market = Market("BTCUSDT")
    until = market.trade(1_000_020).time_us
    trades = market.trades(1_000_000, 1000, until)
    assert trades[-1].time_us <= until < market.trade(trades[-1].id + 1).time_us
    assert market.latest(5, until) == trades[-5:]


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_market_prices_of_a_year_are_plausible_and_move(symbol: str) -> None:
    market = Market(symbol)
    hours = [market.trades(market.id_at(EPOCH_US + hour * HOUR), 1)[0] for hour in range(0, 365 * 24, 2)]
    prices = [Decimal(trade.price) for trade in hours]
    base = market.listing.price
    assert all(base / 8 < price < base * 8 for price in prices)
    assert len(set(prices)) > 300
    steps = [math.log(float(other / one)) for one, other in pairwise(prices)]
    volatility = (sum(step * step for step in steps) / len(steps) * 365 * 12) ** 0.5
    assert market.listing.volatility / 2 < volatility < market.listing.volatility * 2


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_market_prices_and_sizes_are_whole_ticks_and_steps(symbol: str) -> None:
    market = Market(symbol)
    for trade in market.trades(3_000_000, 500):
        assert Decimal(trade.price) > 0
        assert Decimal(trade.size) > 0
        assert Decimal(trade.price) % market.listing.tick_size == 0
        assert Decimal(trade.size) % market.listing.step_size == 0
        assert len(trade.price.partition(".")[2]) == len(trade.size.partition(".")[2]) == 8


def test_market_bounces_between_bid_and_ask_with_both_takers() -> None:
    trades = Market("BTCUSDT", rate=10_000).trades(10_000_000, 1000)
    sold = [Decimal(trade.price) for trade in trades if trade.buyer_is_maker]
    bought = [Decimal(trade.price) for trade in trades if not trade.buyer_is_maker]
    assert 300 < len(sold) < 700
    assert sum(sold) / len(sold) < sum(bought) / len(bought)


def test_history_has_the_ids_times_and_digits_of_the_trades() -> None:
    market = Market("BTCUSDT")
    ticks = list(history(market, InstrumentId(7), 10_000, 15_000))
    assert [tick.trade_id for tick in ticks] == list(range(10_000, 15_000))
    trade = market.trade(10_001)
    assert ticks[1] == Tick(
        InstrumentId(7), 10_001, trade.time_us, Decimal(trade.price), Decimal(trade.size), trade.buyer_is_maker
    )
    assert str(ticks[1].price) == trade.price


@pytest.mark.parametrize(
    ("symbol", "base", "quote", "tick", "step"),
    [
        ("BTCUSDT", "BTC", "USDT", "0.01", "0.00001"),
        ("ETHUSDT", "ETH", "USDT", "0.01", "0.0001"),
        ("SOLUSDT", "SOL", "USDT", "0.01", "0.001"),
        ("XRPUSDC", "XRP", "USDC", "0.0001", "0.1"),
        ("DOGEUSDC", "DOGE", "USDC", "0.00001", "1"),
        ("DOGEFDUSD", "DOGE", "FDUSD", "0.00001", "1"),
    ],
)
def test_listing_of_known_assets_is_as_at_binance(symbol: str, base: str, quote: str, tick: str, step: str) -> None:
    listed = listing(symbol)
    assert (listed.base, listed.quote) == (base, quote)
    assert (listed.tick_size, listed.step_size) == (Decimal(tick), Decimal(step))


@pytest.mark.parametrize("symbol", ["btcusdt", "BTC", "USDT", "BTC-USDT", "FOOBAR", ""])
def test_listing_of_no_symbol_is_an_operator_error(symbol: str) -> None:
    with pytest.raises(OperatorError, match="no symbol"):
        listing(symbol)


@pytest.mark.parametrize("rate", [0, -1, 1e9, float("nan")])
def test_market_with_an_impossible_rate_is_an_operator_error(rate: float) -> None:
    with pytest.raises(OperatorError, match="rate"):
        Market("BTCUSDT", rate=rate)
