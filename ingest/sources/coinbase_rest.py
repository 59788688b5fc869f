"""What ingest asks of Coinbase Exchange's REST: how its products are listed, and their past trades.

Trades come newest first, paged by id: `after=n` gives those below n. There is no asking by time.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final, Literal
from urllib.parse import quote, urlencode

import msgspec

from app.market.model import InstrumentId, Tick
from ingest.instruments import Listing
from ingest.sources import ById, GarbageFrame, History
from ingest.sources.exact import Id, Time, decoding, micros_of, tick_of, ticks_of
from ingest.sources.listing import ask, scale_of

REST_URL: Final = "https://api.exchange.coinbase.com"
PAGE: Final = 1000


class _Trade(msgspec.Struct, gc=False):
    trade_id: Id
    side: Literal["buy", "sell"]
    size: Decimal
    price: Decimal
    time: Time


class _Product(msgspec.Struct):
    id: str
    base_currency: str
    quote_currency: str
    quote_increment: Decimal


_trades = decoding(list[_Trade])
_products = decoding(list[_Product])


def coinbase_history(base_url: str = REST_URL) -> History:
    """Coinbase's past trades; an address is allowed 10 requests a second."""
    return History(
        name="COINBASE",
        url=base_url.rstrip("/"),
        page=lambda ticker, from_id, _: _trades_below(ticker, from_id + PAGE, PAGE),
        parse=parse_page,
        locate=ById(request=lambda ticker, until: _trades_below(ticker, None if until is None else until + 1, 1)),
        requests_per_second=8,
        page_ticks=PAGE,
    )


async def listings(rest_url: str, tickers: Sequence[str]) -> dict[str, Listing]:
    """How the exchange lists these products; plain ones, with a warning, where it cannot be asked now.

    Raises NotListed when the exchange does not know one of them.
    """
    return await ask(f"{rest_url}/products", {}, tickers, _listed)


def _trades_below(ticker: str, after: int | None, limit: int) -> str:
    query = {"limit": limit} if after is None else {"after": after, "limit": limit}
    return f"/products/{quote(ticker, safe='')}/trades?{urlencode(query)}"


def parse_page(body: bytes, instrument: InstrumentId) -> Sequence[Tick]:
    """The trades of a page, the oldest first; `side` is the maker's."""
    return ticks_of(
        tick_of(instrument, row.trade_id, micros_of(row.time), row.price, row.size, row.side == "buy")
        for row in reversed(_trades(body))
    )


def _listed(status: int, body: bytes) -> Mapping[str, Listing]:
    if status != 200:
        raise GarbageFrame(f"HTTP {status}")
    products = _products(body)
    if not products:
        raise GarbageFrame("no products")
    return {
        product.id: Listing(product.base_currency, product.quote_currency, scale_of(product.quote_increment))
        for product in products
    }
