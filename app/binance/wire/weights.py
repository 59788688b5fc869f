"""What Binance publishes of its limits: the request weight of each call, and what a websocket connection may do."""

from collections.abc import Mapping
from typing import Final

WEIGHT_LIMIT: Final = 6000
"""Request weight of an address in a minute."""
CONNECTIONS: Final = 300
CONNECTIONS_SECONDS: Final = 300
"""So many websocket connections of an address in so many seconds."""
STREAMS: Final = 1024
MESSAGES_PER_SECOND: Final = 5
"""Frames of a client, pings and pongs among them."""
PING_SECONDS: Final = 20.0
PONG_SECONDS: Final = 60.0
"""A connection that brought no pong for so long is dropped."""
LIFE: Final = 24 * 3600.0
"""Seconds after which a connection is closed."""
MAX_SYMBOLS: Final = 100
"""Symbols that `ticker` takes in one request."""

_WEIGHTS: Final = {
    "ping": 1,
    "time": 1,
    "exchangeInfo": 20,
    "trades": 25,
    "historicalTrades": 25,
    "aggTrades": 4,
    "klines": 2,
    "uiKlines": 2,
    "avgPrice": 2,
}


def weight(call: str, query: Mapping[str, str]) -> int:
    """The weight of a call by its name under /api/v3; the query counts as it is, well-formed or not."""
    match call:
        case "ticker/price" | "ticker/bookTicker":
            return 2 if "symbol" in query else 4
        case "ticker/24hr":
            return _day_weight(_symbols(query))
        case "ticker":
            return min(4 * (_symbols(query) or 1), 200)
        case _:
            return _WEIGHTS[call]


def _day_weight(symbols: int | None) -> int:
    if symbols is None or symbols > 100:
        return 80
    return 40 if symbols > 20 else 2


def _symbols(query: Mapping[str, str]) -> int | None:
    """How many symbols a query names; None where it names none, and so means all."""
    if "symbol" in query:
        return 1
    return query["symbols"].count(",") + 1 if "symbols" in query else None
