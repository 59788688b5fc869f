"""CoinMarketCap's latest quotes (https://coinmarketcap.com/api/documentation): averages over markets, by REST polling.

A tick is a quote as of its `last_updated`, whose microseconds stand in for an id; it has no size. Prices are JSON
numbers, computed by the venue with more digits than they mean; they are taken digit by digit and rounded to the 18
places that are stored. Tickers are symbol and currency, as in BTC-USD. Several coins may share a symbol: the one with
the best rank is meant.
"""

from collections.abc import Iterator, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from itertools import groupby
from typing import Final
from urllib.parse import urlencode

import msgspec

from app.market.model import MAX_DECIMAL_PLACES, MAX_INTEGER_DIGITS, Feed, InstrumentId, Tick
from ingest.instruments import DEFAULT_PRICE_SCALE, Listing
from ingest.sources import AccessDenied, PollSource, RequestRefused, TryLater
from ingest.sources.exact import LAST_PLACE, ZERO, Time, decoding, micros_of, tick_of, ticks_of
from ingest.sources.listing import NotListed

BASE_URL: Final = "https://pro-api.coinmarketcap.com"
TICKERS_PER_REQUEST: Final = 100  # a request costs a credit for each hundred quotes begun
UNRANKED: Final = 2**31
MINUTE: Final = 60.0
HOUR: Final = 3600.0

ROUNDING: Final = Context(MAX_INTEGER_DIGITS + MAX_DECIMAL_PLACES, ROUND_HALF_EVEN, traps=[InvalidOperation])

KEY_CODES: Final = frozenset({401, 402, 403, 1001, 1002, 1003, 1004, 1005, 1006, 1007})
PAUSES: Final = {429: MINUTE, 1008: MINUTE, 1011: MINUTE, 1009: HOUR, 1010: 6 * HOUR}
"""Seconds to stay away when a limit is reached: that of a minute or of an address, of a day (1009), of a month (1010).

When the last two end is not told; they are asked after anew now and then.
"""


class _Price(msgspec.Struct, gc=False):
    price: Decimal | None
    last_updated: Time


class _Coin(msgspec.Struct, gc=False):
    id: int
    symbol: str
    quote: dict[str, _Price]
    cmc_rank: int | None = None


class _Status(msgspec.Struct):
    error_code: int
    error_message: str | None = None


class _Answer(msgspec.Struct):
    status: _Status
    data: dict[str, list[_Coin]] = {}


class _Refusal(msgspec.Struct):
    status: _Status


_answer = decoding(_Answer)
_refusal = decoding(_Refusal)


def coinmarketcap(feed: Feed, api_key: str, interval: float, base_url: str = BASE_URL) -> PollSource:
    """CoinMarketCap's quotes, asked for every `interval` seconds; raises ValueError for another feed than quote."""
    if feed != "quote":
        raise ValueError(f"CoinMarketCap has no feed {feed!r}; there is quote")
    return PollSource(
        name="COINMARKETCAP",
        feed="quote",
        url=base_url.rstrip("/"),
        parse=parse,
        requests=requests,
        headers={"X-CMC_PRO_API_KEY": api_key, "Accept": "application/json"},
        interval=interval,
        requests_per_second=1,
    )


async def listings(tickers: Sequence[str]) -> dict[str, Listing]:
    """Base and quote as the tickers name them: asking the venue would cost credits, and tell no price scale.

    Raises NotListed for a ticker of another form.
    """
    if wrong := [ticker for ticker in tickers if not all(_parts(ticker))]:
        raise NotListed(f"{', '.join(wrong)}: CoinMarketCap's tickers are symbol and currency, as in BTC-USD")
    return {ticker: Listing(*_parts(ticker), DEFAULT_PRICE_SCALE) for ticker in tickers}


def requests(tickers: Sequence[str]) -> Sequence[str]:
    """A path for each currency that is quoted in, since plans allow but one a request, and for each hundred tickers."""
    paths = []
    for quote, group in groupby(sorted(map(_parts, tickers), key=_quote_and_base), key=lambda parts: parts[1]):
        bases = [base for base, _ in group]
        for start in range(0, len(bases), TICKERS_PER_REQUEST):
            symbols = ",".join(bases[start : start + TICKERS_PER_REQUEST])
            query = urlencode({"symbol": symbols, "convert": quote, "skip_invalid": "true"})
            paths.append(f"/v2/cryptocurrency/quotes/latest?{query}")
    return paths


def parse(body: bytes | str, ids: Mapping[str, InstrumentId]) -> Sequence[Tick]:
    """Raises AccessDenied, TryLater, RequestRefused or GarbageFrame as the error's code asks."""
    _check(_refusal(body).status)  # by itself: an error's data are of any shape
    return ticks_of(_quotes(_answer(body), ids))


def _check(status: _Status) -> None:
    code = status.error_code
    if not code:
        return
    message = f"{status.error_message or 'no reason given'} (code {code})"
    if code in KEY_CODES:
        raise AccessDenied(message)
    if code in PAUSES:
        raise TryLater(message, PAUSES[code])
    if 500 <= code < 600:
        raise TryLater(message, MINUTE)
    raise RequestRefused(message)


def _quotes(answer: _Answer, ids: Mapping[str, InstrumentId]) -> Iterator[Tick]:
    for coins in answer.data.values():
        if not coins:
            continue
        coin = min(coins, key=lambda coin: (coin.cmc_rank or UNRANKED, coin.id))
        for currency, quote in coin.quote.items():
            instrument = ids.get(f"{coin.symbol}-{currency}")
            price = _rounded(quote.price or ZERO)
            if instrument is not None and price:  # a coin without a price must not hide the others
                time_us = micros_of(quote.last_updated)
                yield tick_of(instrument, time_us, time_us, price, ZERO, None)


def _rounded(price: Decimal) -> Decimal:
    rounded = price.quantize(LAST_PLACE, None, ROUNDING)
    return price if price == rounded else rounded


def _parts(ticker: str) -> tuple[str, str]:
    base, _, quote = ticker.rpartition("-")
    return base, quote


def _quote_and_base(parts: tuple[str, str]) -> tuple[str, str]:
    return parts[1], parts[0]
