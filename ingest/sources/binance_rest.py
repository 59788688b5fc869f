"""What ingest asks of Binance's REST: how its symbols are listed, and its past trades.

Trades are served under the ids of the streams. With the header below their times are in microseconds, as the streams
are asked to send them: the time is part of a tick's key.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final
from urllib.parse import urlencode

import msgspec

from app.market.model import Feed, InstrumentId, Tick
from ingest.instruments import Listing
from ingest.sources import ByTime, GarbageFrame, History
from ingest.sources.exact import Id, decoding, micros, tick_of, ticks_of
from ingest.sources.listing import ask, scale_of

REST_URL: Final = "https://api.binance.com"
INVALID_SYMBOL: Final = -1121
PAGE: Final = 1000
HEADERS: Final = {"X-MBX-TIME-UNIT": "MICROSECOND"}


class _Filter(msgspec.Struct, rename="camel"):
    filter_type: str
    tick_size: Decimal | None = None


class _Symbol(msgspec.Struct, rename="camel"):
    symbol: str
    base_asset: str
    quote_asset: str
    filters: list[_Filter]


class _ExchangeInfo(msgspec.Struct):
    symbols: list[_Symbol]


class _Refusal(msgspec.Struct):
    code: int
    msg: str


class _Trade(msgspec.Struct, gc=False, rename="camel"):
    id: Id
    price: Decimal
    qty: Decimal
    time: int
    is_buyer_maker: bool


class _AggregateTrade(msgspec.Struct, gc=False):
    id: Id = msgspec.field(name="a")
    first: Id = msgspec.field(name="f")
    price: Decimal = msgspec.field(name="p")
    size: Decimal = msgspec.field(name="q")
    time: int = msgspec.field(name="T")
    buyer_is_maker: bool = msgspec.field(name="m")


_trades = decoding(list[_Trade])
_aggregates = decoding(list[_AggregateTrade])
_exchange_info = decoding(_ExchangeInfo)
_refusal = decoding(_Refusal)


async def listings(rest_url: str, tickers: Sequence[str]) -> dict[str, Listing]:
    """How the exchange lists these tickers; plain ones, with a warning, where it cannot be asked now.

    Raises NotListed when the exchange does not know one of them.
    """
    symbols = {"symbols": msgspec.json.encode(list(tickers)).decode()}
    return await ask(f"{rest_url}/api/v3/exchangeInfo", symbols, tickers, _listed)


def binance_history(feed: Feed, base_url: str = REST_URL) -> History | None:
    """Binance's past trades of a feed; None where it keeps none under the ids that the stream has.

    A request of this kind weighs 25 (trades) or 4 (aggregate trades) of the 6,000 that an address may use a minute;
    the rest of them is left to others behind the same address.
    """
    if feed not in {"trade", "aggTrade"}:
        return None
    by_trade = feed == "trade"
    return History(
        name="BINANCE",
        url=base_url.rstrip("/"),
        page=_historical_trades if by_trade else _aggregate_trades,
        parse=_trade_ticks if by_trade else _aggregate_ticks,
        locate=ByTime(request=_from_time, parse=_first_trade if by_trade else _first_aggregate, weight=4),
        requests_per_second=20,  # far below the 61,000 in five minutes; the weight is what binds
        page_ticks=PAGE,
        headers=HEADERS,
        weight=25 if by_trade else 4,
        weight_limit=4800,
        weight_header="X-MBX-USED-WEIGHT-1M",
    )


def _listed(status: int, body: bytes) -> Mapping[str, Listing]:
    if status != 200:
        refusal = _refusal(body)
        if refusal.code == INVALID_SYMBOL:
            return {}  # it does not say which one
        raise GarbageFrame(f"{refusal.msg} (code {refusal.code})")
    symbols = _exchange_info(body).symbols
    if not symbols:
        raise GarbageFrame("no symbols")  # it refuses those that it does not know
    return {symbol.symbol: Listing(symbol.base_asset, symbol.quote_asset, _scale(symbol)) for symbol in symbols}


def _scale(symbol: _Symbol) -> int:
    return scale_of(next((item.tick_size for item in symbol.filters if item.filter_type == "PRICE_FILTER"), None))


def _historical_trades(ticker: str, from_id: int, _: int) -> str:
    return "/api/v3/historicalTrades?" + urlencode({"symbol": ticker, "fromId": from_id, "limit": PAGE})


def _aggregate_trades(ticker: str, from_id: int, _: int) -> str:
    return "/api/v3/aggTrades?" + urlencode({"symbol": ticker, "fromId": from_id, "limit": PAGE})


def _from_time(ticker: str, time_us: int) -> str:
    """Milliseconds, rounded down: the trade found may be earlier than asked for by less than one."""
    return "/api/v3/aggTrades?" + urlencode({"symbol": ticker, "startTime": time_us // 1000, "limit": 1})


def _trade_ticks(body: bytes, instrument: InstrumentId) -> Sequence[Tick]:
    return ticks_of(
        tick_of(instrument, row.id, micros(row.time), row.price, row.qty, row.is_buyer_maker) for row in _trades(body)
    )


def _aggregate_ticks(body: bytes, instrument: InstrumentId) -> Sequence[Tick]:
    return ticks_of(
        tick_of(instrument, row.id, micros(row.time), row.price, row.size, row.buyer_is_maker)
        for row in _aggregates(body)
    )


def _first_trade(body: bytes) -> int | None:
    return next((row.first for row in _aggregates(body)), None)


def _first_aggregate(body: bytes) -> int | None:
    return next((row.id for row in _aggregates(body)), None)
