"""What ingest asks of Kraken's REST: how its pairs are listed, and their past trades.

Answers carry errors under HTTP 200. Trades are paged by time: `since` is in nanoseconds, and excludes what it names.
Their times are in seconds with more digits than microseconds need; digits beyond are cut off.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final, Literal
from urllib.parse import urlencode

import msgspec

from app.market.model import InstrumentId, Tick
from ingest.instruments import Listing
from ingest.sources import ByTime, GarbageFrame, History, RequestRefused, TryLater
from ingest.sources.exact import FIRST_TIME_MS, MAX_TIME_MS, Id, decoding, tick_of, ticks_of
from ingest.sources.listing import ask, scale_of

REST_URL: Final = "https://api.kraken.com"
PAGE: Final = 1000
OVERLAP_US: Final = 2  # the time of the last known trade may be off by one where the stream rounds otherwise
BUSY_SECONDS: Final = 15.0
PASSING: Final = ("EAPI:Rate limit", "EGeneral:Too many", "EGeneral:Temporary", "EGeneral:Internal", "EService:")
UNKNOWN_PAIR: Final = "EQuery:Unknown asset pair"
OUR_NAMES: Final = {"XBT": "BTC", "XDG": "DOGE"}


class _Row(msgspec.Struct, array_like=True, gc=False):
    price: Decimal
    volume: Decimal
    time: Decimal
    side: Literal["b", "s"]
    order_type: str
    misc: str
    trade_id: Id


class _Pair(msgspec.Struct):
    wsname: str = ""
    pair_decimals: int = 2
    tick_size: Decimal | None = None


class _Answer(msgspec.Struct):
    error: list[str]
    result: dict[str, msgspec.Raw] = {}


_answer = decoding(_Answer)
_page = decoding(list[_Row])
_pair = decoding(_Pair)


def kraken_history(base_url: str = REST_URL) -> History:
    """Kraken's past trades; an address is allowed about one request a second."""
    return History(
        name="KRAKEN",
        url=base_url.rstrip("/"),
        page=lambda ticker, _, from_time_us: _trades_since(ticker, from_time_us - OVERLAP_US, PAGE),
        parse=parse_page,
        locate=ByTime(request=lambda ticker, time_us: _trades_since(ticker, time_us, 1), parse=_first_id),
        requests_per_second=1,
        page_ticks=PAGE,
        pages_by_time=True,
    )


async def listings(rest_url: str, tickers: Sequence[str]) -> dict[str, Listing]:
    """How the exchange lists these pairs; plain ones, with a warning, where it cannot be asked now.

    Raises NotListed when the exchange does not know one of them.
    """
    return await ask(f"{rest_url}/0/public/AssetPairs", {"pair": ",".join(map(_pair_of, tickers))}, tickers, _listed)


def _pair_of(ticker: str) -> str:
    return ticker.replace("-", "")


def _trades_since(ticker: str, from_time_us: int, count: int) -> str:
    since = max(0, from_time_us * 1000 - 1)
    return "/0/public/Trades?" + urlencode({"pair": _pair_of(ticker), "since": since, "count": count})


def parse_page(body: bytes, instrument: InstrumentId) -> Sequence[Tick]:
    """The trades of a page by id; `side` is the taker's."""
    ticks = ticks_of(
        tick_of(instrument, row.trade_id, _micros(row.time), row.price, row.volume, row.side == "s")
        for row in _rows(body)
    )
    return sorted(ticks, key=lambda tick: tick.trade_id)


def _first_id(body: bytes) -> int | None:
    return next((row.trade_id for row in _rows(body)), None)


def _rows(body: bytes) -> list[_Row]:
    return next((_page(bytes(rows)) for name, rows in _result(body).items() if name != "last"), [])


def _result(body: bytes) -> Mapping[str, msgspec.Raw]:
    answer = _answer(body)
    errors = [error for error in answer.error if error.startswith("E")]  # the others are warnings
    if any(error.startswith(PASSING) for error in errors):
        raise TryLater(", ".join(errors), BUSY_SECONDS)
    if errors:
        raise RequestRefused(", ".join(errors))
    return answer.result


def _micros(seconds: Decimal) -> int:
    if not FIRST_TIME_MS // 1000 <= seconds < MAX_TIME_MS // 1000:  # first of all: an exponent may be of any size
        raise GarbageFrame("time is not between 2001 and 2262")
    return int(seconds * 1_000_000)


def _listed(status: int, body: bytes) -> Mapping[str, Listing]:
    if status != 200:
        raise GarbageFrame(f"HTTP {status}")
    try:
        pairs = [_pair(bytes(pair)) for pair in _result(body).values()]
    except RequestRefused as refusal:
        if UNKNOWN_PAIR in str(refusal):
            return {}  # it does not say which one
        raise
    if not pairs:
        raise GarbageFrame("no pairs")
    listed = {}
    for pair in pairs:
        base, _, quote = (OUR_NAMES.get(name, name) for name in pair.wsname.partition("/"))
        scale = pair.pair_decimals if pair.tick_size is None else scale_of(pair.tick_size)
        listed[f"{base}-{quote}"] = Listing(base, quote, scale)
    return listed
