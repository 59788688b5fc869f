"""The venues that ticks can be taken from: for each its feed, its past, and how it lists its tickers."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Literal
from urllib.parse import urlsplit, urlunsplit

import msgspec

from app.errors import OperatorError
from app.market.model import Feed
from app.settings import Settings
from ingest.instruments import Listing
from ingest.sources import History, PollSource, Source, binance_rest, coinbase_rest, coinmarketcap, kraken_rest
from ingest.sources.binance import BASE_URL as BINANCE_URL
from ingest.sources.binance import binance
from ingest.sources.coinbase import BASE_URL as COINBASE_URL
from ingest.sources.coinbase import coinbase
from ingest.sources.kraken import BASE_URL as KRAKEN_URL
from ingest.sources.kraken import kraken

SIMULATOR_URL: Final = "ws://127.0.0.1:9443"

Listings = Callable[[Sequence[str]], Awaitable[dict[str, Listing]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Venue:
    """`history` is None where the venue keeps no past under the ids of the feed; `listings` is given tickers."""

    source: Source | PollSource
    history: History | None
    listings: Listings


def venue_of(settings: Settings) -> Venue:
    """The venue that the settings name. Raises OperatorError for a feed that it does not have, or a missing key."""
    try:
        return VENUES[settings.source](settings, settings.feed)
    except ValueError as error:
        raise OperatorError(f"{error}: choose it with --feed") from None


def venue_for(settings: Settings, name: str, feed: Feed) -> Venue:
    """The venue of an instrument, by the instrument's source and feed; its `history` is there.

    The addresses in the settings hold where `source` names this venue; for others their own are taken. Raises
    OperatorError where no past trades can be had.
    """
    source = SOURCES.get(name)
    if source is None:
        raise OperatorError(f"{name} is not a venue whose past trades can be had")
    if source != settings.source:
        settings = msgspec.structs.replace(settings, source=source, url="", rest_url="")
    try:
        venue = VENUES[source](settings, feed)
    except ValueError as error:
        raise OperatorError(str(error)) from None
    if venue.history is None:
        raise OperatorError(f"{name} serves no past trades for the feed {feed}")
    return venue


def _binance(settings: Settings, feed: Feed) -> Venue:
    rest_url = _rest_url(settings, binance_rest.REST_URL)
    return Venue(
        source=binance(feed, settings.url or BINANCE_URL),
        history=binance_rest.binance_history(feed, rest_url),
        listings=partial(binance_rest.listings, rest_url),
    )


def _simulator(settings: Settings, feed: Feed) -> Venue:
    """Binance's forms, at an exchange of ours."""
    venue = _binance(msgspec.structs.replace(settings, url=settings.url or SIMULATOR_URL), feed)
    return Venue(
        source=replace(venue.source, name="SIM"),
        history=venue.history and replace(venue.history, name="SIM"),
        listings=venue.listings,
    )


def _coinbase(settings: Settings, feed: Feed) -> Venue:
    rest_url = _rest_url(settings, coinbase_rest.REST_URL)
    return Venue(
        source=coinbase(feed, settings.url or COINBASE_URL),
        history=coinbase_rest.coinbase_history(rest_url),
        listings=partial(coinbase_rest.listings, rest_url),
    )


def _kraken(settings: Settings, feed: Feed) -> Venue:
    rest_url = _rest_url(settings, kraken_rest.REST_URL)
    return Venue(
        source=kraken(feed, settings.url or KRAKEN_URL),
        history=kraken_rest.kraken_history(rest_url),
        listings=partial(kraken_rest.listings, rest_url),
    )


def _coinmarketcap(settings: Settings, feed: Feed) -> Venue:
    rest_url = _rest_url(settings, coinmarketcap.BASE_URL)
    source = coinmarketcap.coinmarketcap(feed, settings.api_key, settings.poll_seconds, rest_url)
    if not settings.api_key:
        raise OperatorError("CoinMarketCap answers only who has a key: put one into TICKWICK_API_KEY")
    return Venue(source=source, history=None, listings=coinmarketcap.listings)


def _rest_url(settings: Settings, usual: str) -> str:
    """Where the venue's REST is: as set, else beside its websocket where that was set, else where it usually is."""
    if settings.rest_url or not settings.url:
        return (settings.rest_url or usual).rstrip("/")
    parts = urlsplit(settings.url)
    return urlunsplit((parts.scheme.replace("ws", "http", 1), parts.netloc, "", "", ""))


VENUES: Final[Mapping[str, Callable[[Settings, Feed], Venue]]] = {
    "binance": _binance,
    "coinbase": _coinbase,
    "kraken": _kraken,
    "coinmarketcap": _coinmarketcap,
    "simulator": _simulator,
}
SOURCES: Final[Mapping[str, Literal["binance", "coinbase", "kraken", "simulator"]]] = {
    "BINANCE": "binance",
    "COINBASE": "coinbase",
    "KRAKEN": "kraken",
    "SIM": "simulator",
}
"""The settings' names of the venues that serve past trades, by the source that their instruments carry."""
