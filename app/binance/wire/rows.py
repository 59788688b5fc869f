"""The bodies of Binance's REST: its fields in its order, for a JSON encoder.

Times are taken in microseconds since 1970 and told in `unit`s, of so many microseconds each; decimals pass verbatim.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from app.binance.wire.figures import NOTHING, ZERO, Figures, figures
from app.market.model import EXACT, Candle, Ticker, plain

Row = dict[str, object]

PLACES: Final = 8
"""Assets are said to have so many places, unless a price has more."""
_MOST: Final = "92233720368.54775807"
"""The largest quantity that Binance can hold."""


def server_time(now_us: int, unit: int) -> Row:
    return {"serverTime": now_us // unit}


def trade_row(trade_id: int, price: str, size: str, time_us: int, buyer_is_maker: bool, unit: int) -> Row:
    return {
        "id": trade_id,
        "price": price,
        "qty": size,
        "quoteQty": plain(EXACT.multiply(Decimal(price), Decimal(size))),
        "time": time_us // unit,
        "isBuyerMaker": buyer_is_maker,
        "isBestMatch": True,
    }


def aggregate_row(trade_id: int, price: str, size: str, time_us: int, buyer_is_maker: bool, unit: int) -> Row:
    """Each trade is its own aggregate."""
    return {
        "a": trade_id,
        "p": price,
        "q": size,
        "f": trade_id,
        "l": trade_id,
        "T": time_us // unit,
        "m": buyer_is_maker,
        "M": True,
    }


def kline_row(candle: Candle, start_us: int, end_us: int, unit: int) -> list[object]:
    """`end_us` is where the next candle begins."""
    return [
        start_us // unit,
        candle.open,
        candle.high,
        candle.low,
        candle.close,
        candle.volume,
        end_us // unit - 1,
        candle.quote_volume,
        candle.trades,
        candle.taker_buy_volume,
        candle.taker_buy_quote_volume,
        "0",
    ]


def full_row(symbol: str, ticker: Ticker | None, start_us: int, end_us: int, unit: int) -> Row:
    """A ticker of 24 hours; `ticker` is None for an instrument that never traded."""
    known = figures(ticker)
    return {
        "symbol": symbol,
        **_change(known),
        "prevClosePrice": known.previous,
        "lastPrice": known.last,
        "lastQty": known.last_size,
        **_book(known.last),
        **_range(known),
        **_totals(known, start_us // unit, end_us // unit),
    }


def window_row(symbol: str, ticker: Ticker | None, start_us: int, end_us: int, unit: int) -> Row:
    """A ticker of any window."""
    known = figures(ticker)
    return {
        "symbol": symbol,
        **_change(known),
        **_range(known),
        "lastPrice": known.last,
        **_totals(known, start_us // unit, end_us // unit),
    }


def mini_row(symbol: str, ticker: Ticker | None, start_us: int, end_us: int, unit: int) -> Row:
    """The small ticker, of 24 hours or of any window."""
    known = figures(ticker)
    return {
        "symbol": symbol,
        **_range(known),
        "lastPrice": known.last,
        **_totals(known, start_us // unit, end_us // unit),
    }


def price_row(symbol: str, price: str) -> Row:
    return {"symbol": symbol, "price": price}


def book_row(symbol: str, price: str | None) -> Row:
    """There is no order book: bid and ask stand at the last price and offer nothing."""
    return {"symbol": symbol, **_book(price or ZERO)}


def average_row(price: str, last_us: int, unit: int) -> Row:
    """The average price of the last five minutes, and the time of the last trade."""
    return {"mins": 5, "price": price, "closeTime": last_us // unit}


def exchange_info(symbols: Sequence[Row], now_us: int, weight_limit: int, unit: int) -> Row:
    """`symbols` are rows made by `symbol_row`; of the limits those are told that are enforced."""
    return {
        "timezone": "UTC",
        "serverTime": now_us // unit,
        "rateLimits": [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": weight_limit}
        ],
        "exchangeFilters": [],
        "symbols": symbols,
    }


def symbol_row(
    symbol: str,
    base: str,
    quote: str,
    price_places: int,
    size_places: int = PLACES,
    *,
    trading: bool = True,
    permission_sets: bool = True,
) -> Row:
    """What a symbol is: prices have `price_places` decimals, sizes `size_places`; BREAK where it does not trade."""
    places = max(PLACES, price_places)
    return {
        "symbol": symbol,
        "status": "TRADING" if trading else "BREAK",
        "baseAsset": base,
        "baseAssetPrecision": max(PLACES, size_places),
        "quoteAsset": quote,
        "quotePrecision": places,
        "quoteAssetPrecision": places,
        "baseCommissionPrecision": PLACES,
        "quoteCommissionPrecision": PLACES,
        "orderTypes": ["LIMIT", "MARKET"],
        "icebergAllowed": False,
        "ocoAllowed": False,
        "otoAllowed": False,
        "opoAllowed": False,
        "quoteOrderQtyMarketAllowed": False,
        "allowTrailingStop": False,
        "cancelReplaceAllowed": False,
        "amendAllowed": False,
        "pegInstructionsAllowed": False,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": _filters(_step(price_places), _step(size_places)),
        "permissions": ["SPOT"],
        "permissionSets": [["SPOT"]] if permission_sets else [],
        "defaultSelfTradePreventionMode": "NONE",
        "allowedSelfTradePreventionModes": ["NONE"],
    }


def _filters(tick: str, step: str) -> list[Row]:
    return [
        {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": _MOST, "tickSize": tick},
        {"filterType": "LOT_SIZE", "minQty": step, "maxQty": _MOST, "stepSize": step},
        {
            "filterType": "NOTIONAL",
            "minNotional": "0.00000000",
            "applyMinToMarket": True,
            "maxNotional": _MOST,
            "applyMaxToMarket": False,
            "avgPriceMins": 5,
        },
    ]


def _step(places: int) -> str:
    """The smallest number of so many places, padded as Binance pads it, since clients count its digits."""
    return plain(Decimal(1).scaleb(-places).quantize(Decimal(1).scaleb(-max(PLACES, places))))


def _book(price: str) -> Row:
    return {"bidPrice": price, "bidQty": NOTHING, "askPrice": price, "askQty": NOTHING}


def _change(known: Figures) -> Row:
    return {"priceChange": known.change, "priceChangePercent": known.percent, "weightedAvgPrice": known.average}


def _range(known: Figures) -> Row:
    return {"openPrice": known.open, "highPrice": known.high, "lowPrice": known.low}


def _totals(known: Figures, start: int, end: int) -> Row:
    return {
        "volume": known.volume,
        "quoteVolume": known.quote_volume,
        "openTime": start,
        "closeTime": end,
        "firstId": known.first_id,
        "lastId": known.last_id,
        "count": known.trades,
    }
