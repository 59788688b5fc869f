"""Which venue the settings name, and how venues list their tickers."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.errors import OperatorError
from app.settings import Settings
from ingest.instruments import Listing
from ingest.sources import PollSource, Source
from ingest.sources.listing import NotListed
from ingest.venues import SOURCES, VENUES, Venue, venue_for, venue_of
from tests.unit.rest_venue import Answer, RestVenue, open_rest


@pytest.fixture
async def venue() -> AsyncIterator[RestVenue]:
    async with open_rest() as venue:
        yield venue


def named(source: Any, **settings: Any) -> Venue:
    return venue_of(Settings(source=source, **settings))


@pytest.mark.parametrize(
    ("source", "name", "url", "rest_url"),
    [
        ("binance", "BINANCE", "wss://stream.binance.com:9443/stream?timeUnit=MICROSECOND", "https://api.binance.com"),
        ("coinbase", "COINBASE", "wss://ws-feed.exchange.coinbase.com", "https://api.exchange.coinbase.com"),
        ("kraken", "KRAKEN", "wss://ws.kraken.com/v2", "https://api.kraken.com"),
        ("simulator", "SIM", "ws://127.0.0.1:9443/stream?timeUnit=MICROSECOND", "http://127.0.0.1:9443"),
    ],
)
def test_venue_has_its_usual_addresses(source: str, name: str, url: str, rest_url: str) -> None:
    venue = named(source)
    assert isinstance(venue.source, Source)
    assert venue.history
    assert (venue.source.name, venue.source.url) == (name, url)
    assert (venue.history.name, venue.history.url) == (name, rest_url)
    assert venue.source.contiguous_ids


@pytest.mark.parametrize("source", ["binance", "coinbase", "kraken", "simulator"])
def test_rest_is_beside_the_websocket_where_that_is_set_unless_it_is_set_too(source: str) -> None:
    beside, apart = named(source, url="wss://host:1/v2"), named(source, url="ws://host:1", rest_url="http://other/")
    assert beside.history
    assert apart.history
    assert (beside.history.url, apart.history.url) == ("https://host:1", "http://other")


@pytest.mark.parametrize("feed", ["kline_1s", "miniTicker"])
def test_feed_without_ids_has_no_history(feed: Any) -> None:
    assert named("binance", feed=feed).history is None
    with pytest.raises(OperatorError, match=f"BINANCE serves no past trades for the feed {feed}"):
        venue_for(Settings(), "BINANCE", feed)


@pytest.mark.parametrize(
    ("source", "feed", "there_is"),
    [
        ("binance", "quote", "trade, aggTrade, kline_1s, miniTicker"),
        ("coinbase", "aggTrade", "trade"),
        ("kraken", "quote", "trade"),
        ("coinmarketcap", "trade", "quote"),
    ],
)
def test_feed_that_a_venue_does_not_have_is_refused_with_those_it_has(source: str, feed: Any, there_is: str) -> None:
    with pytest.raises(OperatorError, match=f"no feed '{feed}'; there is .*|no feed '{feed}'; there are {there_is}"):
        named(source, feed=feed)


def test_coinmarketcap_needs_a_key_and_shows_it_nowhere() -> None:
    with pytest.raises(OperatorError, match="TICKWICK_API_KEY"):
        named("coinmarketcap", feed="quote")
    settings = Settings(source="coinmarketcap", feed="quote", api_key="0f7e-secret", poll_seconds=42, dsn="secret")
    venue = venue_of(settings)
    assert isinstance(venue.source, PollSource)
    assert venue.source.interval == 42
    assert venue.history is None
    assert "secret" not in f"{settings} {settings!r} {venue!r}"


def test_venue_of_an_instrument_takes_the_settings_addresses_where_they_are_meant_for_it() -> None:
    settings = Settings(source="coinbase", url="ws://host:1")
    urls = {name: history.url for name in SOURCES if (history := venue_for(settings, name, "trade").history)}
    assert urls == {
        "BINANCE": "https://api.binance.com",
        "COINBASE": "http://host:1",
        "KRAKEN": "https://api.kraken.com",
        "SIM": "http://127.0.0.1:9443",
    }


@pytest.mark.parametrize("name", ["COINMARKETCAP", "IMPORT", ""])
def test_instrument_of_no_venue_with_a_past_is_refused(name: str) -> None:
    with pytest.raises(OperatorError, match="past trades"):
        venue_for(Settings(), name, "trade")


def test_every_source_of_the_settings_is_a_venue() -> None:
    for source in ("binance", "coinbase", "kraken", "coinmarketcap", "simulator"):
        assert source in VENUES
    assert set(SOURCES.values()) <= VENUES.keys()


PRODUCT = {"id": "BTC-USD", "base_currency": "BTC", "quote_currency": "USD", "quote_increment": "0.01"}
PAIR = {"altname": "XBTUSD", "wsname": "XBT/USD", "base": "XXBT", "quote": "ZUSD", "pair_decimals": 1}
SYMBOL = {
    "symbol": "BTCUSDT",
    "baseAsset": "BTC",
    "quoteAsset": "USDT",
    "filters": [{"filterType": "PRICE_FILTER", "tickSize": "0.01000000"}, {"filterType": "LOT_SIZE"}],
}


@pytest.mark.parametrize(
    ("source", "answer", "path", "listed"),
    [
        (
            "binance",
            Answer({"symbols": [SYMBOL]}),
            "/api/v3/exchangeInfo?symbols=%5B%22BTCUSDT%22%5D",
            {"BTCUSDT": Listing("BTC", "USDT", 2)},
        ),
        ("coinbase", Answer([PRODUCT, {**PRODUCT, "id": "X-Y"}]), "/products", {"BTC-USD": Listing("BTC", "USD", 2)}),
        (
            "kraken",
            Answer({"error": [], "result": {"XXBTZUSD": {**PAIR, "tick_size": "0.1"}}}),
            "/0/public/AssetPairs?pair=BTCUSD",
            {"BTC-USD": Listing("BTC", "USD", 1)},
        ),
        (
            "kraken",
            Answer({"error": [], "result": {"XDGUSD": {**PAIR, "wsname": "XDG/USD", "pair_decimals": 7}}}),
            "/0/public/AssetPairs?pair=DOGEUSD",
            {"DOGE-USD": Listing("DOGE", "USD", 7)},
        ),
    ],
    ids=["binance", "coinbase", "kraken", "kraken's own names"],
)
async def test_tickers_are_listed(
    venue: RestVenue, source: str, answer: Answer, path: str, listed: dict[str, Listing]
) -> None:
    venue.answers = [answer]
    assert await named(source, rest_url=venue.url).listings(list(listed)) == listed
    assert venue.requests[0].raw_path == path or venue.paths == [path]


@pytest.mark.parametrize(
    ("source", "answer"),
    [
        ("binance", Answer({"code": -1121, "msg": "Invalid symbol."}, status=400)),
        ("binance", Answer({"symbols": [SYMBOL]})),
        ("coinbase", Answer([PRODUCT])),
        ("kraken", Answer({"error": ["EQuery:Unknown asset pair"]})),
    ],
)
async def test_ticker_that_is_not_listed_is_said_to_be(venue: RestVenue, source: str, answer: Answer) -> None:
    venue.answers = [answer]
    with pytest.raises(NotListed, match=r"does not list .*NO-PE.*check --instruments"):
        await named(source, rest_url=venue.url).listings(["BTC-USD", "NO-PE"])


@pytest.mark.parametrize("source", ["binance", "coinbase", "kraken"])
@pytest.mark.parametrize(
    "answer",
    [
        *(Answer(status=500), Answer(status=404), Answer(status=451), Answer(b"<html>"), Answer(b"<html>", status=403)),
        Answer(b"[" + b" " * (5 << 20) + b"]"),
        Answer([]),
        Answer({"symbols": []}),
        Answer({"error": [], "result": {}}),
        Answer({"error": ["EGeneral:Permission denied"]}),
        Answer({"error": ["EQuery:Unavailable for your region"]}),
        Answer({"code": -1100, "msg": "Illegal characters found in parameter 'symbols'."}, status=400),
        Answer({"code": -1003, "msg": "Too much."}, status=429),
        Answer({"message": "NotFound"}, status=404),
        Answer({"error": ["EService:Busy"]}),
    ],
    ids=lambda answer: f"{answer.status} {answer.body[:50].decode().strip()}",
)
async def test_venue_that_cannot_be_asked_leaves_tickers_plain(venue: RestVenue, source: str, answer: Answer) -> None:
    venue.answers = [answer]
    with capture_logs() as logs:
        assert await named(source, rest_url=venue.url).listings(["BTC-USD"]) == {"BTC-USD": Listing()}
    assert [log["event"] for log in logs] == ["listing unknown"]


@pytest.mark.parametrize("source", ["binance", "coinbase", "kraken"])
async def test_venue_that_cuts_its_answer_or_is_not_there_leaves_tickers_plain(source: str) -> None:
    async with open_rest() as gone:
        gone.cut, gone.answers = True, [Answer([PRODUCT])]
        listings = named(source, rest_url=gone.url).listings
        assert await listings(["BTC-USD"]) == {"BTC-USD": Listing()}
    assert await listings(["BTC-USD"]) == {"BTC-USD": Listing()}
