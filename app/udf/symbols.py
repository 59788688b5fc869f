"""Instruments as TradingView describes them, and the search for them. Pure."""

import re
from collections.abc import Iterable
from typing import Final

from msgspec import UNSET

from app.market.model import Instrument, Kind
from app.udf.model import Configuration, Exchange, Match, Symbol, SymbolType
from app.udf.resolutions import MINUTES, RESOLUTIONS

TYPES: Final[dict[Kind, str]] = {"spot": "crypto", "fx": "forex", "good": "commodity"}
VOLUME_PLACES: Final = 8
_SEPARATORS: Final = re.compile("[^A-Z0-9]")


def configuration(instruments: Iterable[Instrument]) -> Configuration:
    sources = sorted({instrument.source for instrument in instruments})
    return Configuration(
        supports_search=True,
        supports_group_request=False,
        supports_marks=True,
        supports_timescale_marks=True,
        supports_time=True,
        exchanges=[Exchange("", "All exchanges", ""), *(Exchange(source, source, source) for source in sources)],
        symbols_types=[SymbolType("", "All types"), *(SymbolType(name, name.title()) for name in TYPES.values())],
        supported_resolutions=[*RESOLUTIONS],
    )


def symbol(instrument: Instrument) -> Symbol:
    return Symbol(
        name=instrument.ticker,
        full_name=instrument.symbol,
        ticker=instrument.symbol,
        description=description(instrument),
        type=TYPES[instrument.kind],
        exchange=instrument.source,
        listed_exchange=instrument.source,
        minmov=1,
        pricescale=10**instrument.price_scale,
        volume_precision=VOLUME_PLACES,
        supported_resolutions=[*RESOLUTIONS],
        seconds_multipliers=["1"],
        intraday_multipliers=MINUTES,
        daily_multipliers=["1", "3"],
        data_status="streaming" if instrument.active else "endofday",
        currency_code=instrument.quote or UNSET,
        original_currency_code=instrument.quote or UNSET,
    )


def description(instrument: Instrument) -> str:
    if instrument.base and instrument.quote:
        return f"{instrument.base} / {instrument.quote}"
    return instrument.ticker


def search(instruments: Iterable[Instrument], query: str, kind: str, exchange: str, limit: int) -> list[Match]:
    """The best matches first: by ticker, base, quote, source. An empty `kind` or `exchange` leaves all in.

    `SOURCE:` before the query does as `exchange`. Case and separators do not matter: BTC-USD is found as btcusd.
    """
    text = query.upper().strip()
    source, colon, rest = text.partition(":")
    wanted = _plain(rest if colon else text)
    if text and not wanted and not colon:
        return []
    found = []
    for instrument in instruments:
        if kind.lower() not in ("", TYPES[instrument.kind]) or exchange.upper() not in ("", instrument.source):
            continue
        if (not colon or source == instrument.source) and (rank := _rank(instrument, wanted)) is not None:
            found.append((rank, len(instrument.ticker), instrument.symbol, instrument))
    return [_match(instrument) for *_, instrument in sorted(found, key=lambda entry: entry[:3])[:limit]]


def _rank(instrument: Instrument, wanted: str) -> int | None:
    """How well an instrument fits, 0 the best, or None where it does not."""
    ticker, base, quote = (_plain(text or "") for text in (instrument.ticker, instrument.base, instrument.quote))
    tests = (
        wanted == ticker,
        wanted == base,
        ticker.startswith(wanted),
        wanted == quote,
        wanted in ticker,
        wanted in base + quote,
        wanted in _plain(instrument.symbol),
    )
    return next((rank for rank, passed in enumerate(tests) if passed), None)


def _plain(text: str) -> str:
    return _SEPARATORS.sub("", text.upper())


def _match(instrument: Instrument) -> Match:
    return Match(
        symbol=instrument.ticker,
        full_name=instrument.symbol,
        ticker=instrument.symbol,
        description=description(instrument),
        exchange=instrument.source,
        type=TYPES[instrument.kind],
    )
