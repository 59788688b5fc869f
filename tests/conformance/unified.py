"""ccxt as these tests use it, and the market in its words. It keeps numbers as text: they are compared to the digit."""

from typing import Any

from app.market.model import Tick, plain, to_micros
from tests.conformance.market import Listed, Market
from tests.integration.reckoning import reckon


def configured(kind: Any, market: Market) -> Any:
    """A client that asks the market instead of Binance; Tickwick has spot markets and no wallets."""
    client = kind({"apiKey": "any", "options": {"fetchMarkets": {"types": ["spot"]}, "fetchCurrencies": False}})
    client.enableRateLimit = False
    client.number = str
    client.urls["api"]["public"] = market.url + "/api/v3"
    return client


def candles(market: Market, listed: Listed, interval: str) -> list[list[Any]]:
    """ccxt's candles out of the trades, by other means than the product's."""
    return [[to_micros(row[0]) // 1000, *row[1:6]] for row in reckon(market.trades[listed], interval)]


def told(trade: dict[str, Any]) -> tuple[Any, ...]:
    return trade["id"], trade["timestamp"], trade["price"], trade["amount"], trade["side"]


def traded(tick: Tick) -> tuple[Any, ...]:
    """A trade as ccxt tells it; where nobody knows who took, it counts as sold."""
    side = "buy" if tick.buyer_is_maker is False else "sell"
    return str(tick.trade_id), tick.time_us // 1000, plain(tick.price), plain(tick.size), side


def day(market: Market, listed: Listed) -> dict[str, Any]:
    """A ticker's numbers by ccxt's names, as the native API tells them."""
    native = market.native("ticker", listed)
    names = {
        "last": "last",
        "close": "last",
        "open": "open",
        "high": "high",
        "low": "low",
        "change": "change",
        "percentage": "change_percent",
        "baseVolume": "volume",
        "quoteVolume": "quote_volume",
        "bid": "last",
        "ask": "last",
    }
    return {name: native[of] for name, of in names.items()}
