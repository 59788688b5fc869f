"""The poller against a venue that misbehaves on command."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from app.errors import OperatorError
from app.market.model import InstrumentId
from ingest.backoff import Backoff
from ingest.poll import Poller
from ingest.sources.coinmarketcap import coinmarketcap
from tests.unit.feed_venue import Sink
from tests.unit.rest_venue import Answer, RestVenue, eventually, open_rest

RECORDING = (Path(__file__).parents[1] / "recordings" / "coinmarketcap_quotes.jsonl").read_bytes().splitlines()
INVALID_KEY, MINUTE_LIMIT = RECORDING[1:3]
KEY = "0f7e-secret"
ONE, TWO = InstrumentId(1), InstrumentId(2)
TIME_US = 1_700_000_000_000_000


def quotes(second: int = 0, *symbols: str, currency: str = "USD") -> Answer:
    """Prices as of a second of a minute."""
    quote = {currency: {"price": 1.5 + second, "last_updated": f"2023-11-14T22:13:{20 + second}.000Z"}}
    data = {symbol: [{"id": 1, "symbol": symbol, "quote": quote}] for symbol in symbols or ("BTC",)}
    return Answer({"status": {"error_code": 0}, "data": data})


@pytest.fixture
async def venue() -> AsyncIterator[RestVenue]:
    async with open_rest() as venue:
        yield venue


class Polling:
    def __init__(self, url: str, timeout: float, **changes: Any) -> None:
        self.sink = Sink()
        source = replace(
            coinmarketcap("quote", KEY, 0.01, url), **{"interval": 0.01, "requests_per_second": 1000, **changes}
        )
        self.poller = Poller(
            source,
            {"BTC-USD": ONE},
            self.sink.push,
            self.sink.room,
            backoff=lambda: Backoff(first=0.001, ceiling=0.001),
            timeout=aiohttp.ClientTimeout(total=timeout),
        )
        self.task = asyncio.create_task(self.poller.run())


@asynccontextmanager
async def polling(venue: RestVenue, *, timeout: float = 5.0, **changes: Any) -> AsyncIterator[Polling]:
    run = Polling(venue.url, timeout, **changes)
    try:
        yield run
    finally:
        run.task.cancel()
        await asyncio.wait([run.task])


async def asked(venue: RestVenue, count: int) -> None:
    await eventually(lambda: len(venue.requests) >= count)


async def test_quote_is_pushed_once_however_often_it_is_told(venue: RestVenue) -> None:
    venue.answers = [quotes(0), quotes(0), quotes(1), quotes(0), quotes(1)]
    venue.otherwise = lambda _: quotes(2)
    async with polling(venue) as run:
        await run.sink.until(lambda ids: len(ids) == 3)
        await asked(venue, 10)
        assert run.sink.ids() == [TIME_US, TIME_US + 1_000_000, TIME_US + 2_000_000]
        counters = run.poller.counters
        assert (counters.ticks, counters.garbage, counters.connected) == (3, 0, True)
        assert counters.frames > counters.ignored >= 2
        assert counters.last_frame > 0
    assert venue.requests[0].headers["X-CMC_PRO_API_KEY"] == KEY
    assert venue.paths[0] == "/v2/cryptocurrency/quotes/latest?symbol=BTC&convert=USD&skip_invalid=true"


async def test_nothing_is_asked_for_while_nothing_is_tracked(venue: RestVenue) -> None:
    venue.otherwise = lambda _: quotes(0, "BTC", "ETH")
    async with polling(venue) as run:
        await run.sink.until(lambda ids: len(ids) == 1)
        await run.poller.untrack(["BTC-USD", "NOPE-USD"])
        await asked(venue, 1)
        assert run.poller.instruments == {}
        await run.poller.track({"ETH-USD": TWO})
        await run.sink.until(lambda ids: len(ids) == 1, TWO)
        assert run.sink.ids(ONE) == [TIME_US]
        await run.poller.track({"BTC-USD": ONE})  # tracked anew: what it was last is told again
        await run.sink.until(lambda ids: len(ids) == 2, ONE)


async def test_each_currency_is_asked_for_by_itself(venue: RestVenue) -> None:
    venue.otherwise = lambda request: quotes(0, currency=request.query["convert"])
    async with polling(venue) as run:
        await run.poller.track({"BTC-EUR": TWO})
        await run.sink.until(lambda ids: len(ids) == 1, ONE)
        await run.sink.until(lambda ids: len(ids) == 1, TWO)


@pytest.mark.parametrize(
    "answer",
    [Answer(INVALID_KEY, status=401), Answer(b"<html>", status=403), Answer(b"", status=401)],
    ids=["401", "403 of a proxy", "401 without a body"],
)
async def test_wrong_key_is_an_operators_error_without_the_key(venue: RestVenue, answer: Answer) -> None:
    venue.answers = [answer]
    with capture_logs() as logs:
        async with polling(venue) as run:
            with pytest.raises(OperatorError, match="COINMARKETCAP does not accept the API key") as caught:
                await asyncio.wait_for(asyncio.shield(run.task), 5)
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(logs)
    assert len(venue.requests) == 1


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (Answer(MINUTE_LIMIT, status=429), 60),
        (Answer(MINUTE_LIMIT, status=429, Retry_After="90"), 90),
        (Answer(b"", status=429, Retry_After="7"), 7),
        (Answer(b"", status=429), 60),
        (Answer(b"", status=503, Retry_After="7"), 7),
    ],
    ids=["minute", "longer", "bare", "silent", "503"],
)
async def test_limit_is_kept_to(venue: RestVenue, answer: Answer, seconds: int) -> None:
    venue.answers = [quotes(0), answer]
    venue.otherwise = lambda _: quotes(1)
    with capture_logs() as logs:
        async with polling(venue) as run:
            await asked(venue, 2)
            await eventually(lambda: not run.poller.counters.connected)
    assert [log["seconds"] for log in logs if log["event"] == "polling paused"] == [seconds]
    assert len(venue.requests) == 2


@pytest.mark.parametrize(
    "failure",
    [Answer(status=500), Answer(b"<html>"), Answer(b"<html>", status=502), Answer({"status": {"error_code": 400}})],
    ids=["500", "garbage", "502", "refused"],
)
async def test_failure_does_not_end_the_polling(venue: RestVenue, failure: Answer) -> None:
    venue.answers = [quotes(0), failure, failure]
    venue.otherwise = lambda _: quotes(1)
    async with polling(venue) as run:
        await run.sink.until(lambda ids: len(ids) == 2)
        assert run.poller.counters.connected
        assert run.poller.counters.garbage == (2 if failure.body == b"<html>" and failure.status == 200 else 0)


async def test_cut_body_and_reconnect_are_told(venue: RestVenue) -> None:
    venue.answers = [quotes(0)]
    venue.otherwise = lambda _: quotes(1)
    async with polling(venue) as run:
        await run.sink.until(lambda ids: len(ids) == 1)
        venue.cut = True
        await run.sink.until(lambda ids: len(ids) == 2)
        assert run.poller.counters.connected
        assert run.poller.counters.reconnects == 1


async def test_venue_that_hangs_is_asked_again(venue: RestVenue) -> None:
    venue.hang = True
    venue.otherwise = lambda _: quotes(0)
    async with polling(venue, timeout=0.05) as run:
        await asked(venue, 2)
        assert not run.poller.counters.connected
        venue.hang = False
        await run.sink.until(lambda ids: len(ids) == 1)


async def test_full_sink_holds_the_next_request_back(venue: RestVenue) -> None:
    venue.answers = [quotes(0), quotes(1)]
    venue.otherwise = lambda _: quotes(2)
    async with polling(venue) as run:
        run.sink.full = True
        await asyncio.wait_for(run.sink.waiting.wait(), 5)
        assert run.sink.ids() == [TIME_US]
        run.sink.full = False
        run.sink.released.set()
        await run.sink.until(lambda ids: len(ids) == 3)


async def test_redirect_is_not_followed_with_the_key(venue: RestVenue) -> None:
    async with open_rest() as other:
        venue.answers = [Answer(status=302, Location=other.url)]
        venue.otherwise = lambda _: quotes(0)
        async with polling(venue) as run:
            await run.sink.until(lambda ids: len(ids) == 1)
        assert other.requests == []


async def test_quote_of_an_instrument_dropped_meanwhile_is_not_pushed(venue: RestVenue) -> None:
    held = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        held.set()
        await asyncio.wait_for(gone.wait(), 5)
        return web.json_response(json.loads(quotes(0).body))

    gone = asyncio.Event()
    app = web.Application()
    app.router.add_get("/{path:.*}", slow)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    venue.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with polling(venue) as run:
        await asyncio.wait_for(held.wait(), 5)
        await run.poller.untrack(["BTC-USD"])
        gone.set()
        await eventually(lambda: run.poller.counters.ignored)
        assert run.sink.ticks == []
    await runner.cleanup()
