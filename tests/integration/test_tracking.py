"""What is owned is what is followed; what was added while all runs is described, or dropped where nobody lists it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager

import psycopg
import pytest

from app.market.model import Instrument, InstrumentId
from ingest import instruments
from ingest.instruments import Listing
from ingest.sources.listing import NotListed
from ingest.tracking import Tracking
from ingest.venues import Listings
from tests.databases import Database
from tests.integration.ticks import add_instrument, connected


class Recorder:
    """A receiver that does as it is told."""

    def __init__(self) -> None:
        self.instruments: dict[str, InstrumentId] = {}
        self.changed = asyncio.Event()

    async def track(self, instruments: Mapping[str, InstrumentId]) -> None:
        self.instruments.update(instruments)
        self.changed.set()

    async def untrack(self, tickers: Collection[str]) -> None:
        for ticker in [*tickers]:
            del self.instruments[ticker]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


async def listings(tickers: Sequence[str]) -> dict[str, Listing]:
    if "NOBODY" in tickers:
        raise NotListed("the exchange does not list NOBODY")
    return {ticker: Listing("BASE", "QUOTE", 7) for ticker in tickers}


@asynccontextmanager
async def tracking(database: Database, receiver: Recorder, listings: Listings = listings) -> AsyncIterator[Tracking]:
    made = Tracking(database.writer, receiver, listings)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_receiver_follows_the_newest_word(any_database: Database) -> None:
    one, two = await add_instrument(any_database, "ONE"), await add_instrument(any_database, "TWO")
    receiver = Recorder()
    async with tracking(any_database, receiver) as made:
        made.follow([one])
        made.follow([one, two])
        await receiver.until(lambda: receiver.instruments == {"ONE": one.id, "TWO": two.id})
        made.follow([two])
        await receiver.until(lambda: receiver.instruments == {"TWO": two.id})
        made.follow([])
        await receiver.until(lambda: receiver.instruments == {})


async def answer(database: Database, query: str, wanted: object) -> None:
    """Wait until a query answers so."""
    async with asyncio.timeout(5):
        while database.execute(query) != wanted:  # noqa: ASYNC110  # a table has no event
            await asyncio.sleep(0.01)


async def test_instrument_added_while_all_runs_is_described_as_the_venue_lists_it(any_database: Database) -> None:
    await add_instrument(any_database, "OLD")
    any_database.execute("SELECT market.track('SIM:NEW')")
    async with connected(any_database) as conn:
        found = await instruments.by_symbol(conn, ["SIM:NEW"])
    async with tracking(any_database, Recorder()) as made:
        made.follow(found)
        query = "SELECT base, quote, price_scale FROM market.instruments WHERE symbol = 'SIM:NEW'"
        await answer(any_database, query, [("BASE", "QUOTE", 7)])


async def test_what_the_venue_does_not_list_is_no_longer_tracked(any_database: Database) -> None:
    await add_instrument(any_database, "OLD")
    any_database.execute("SELECT market.track('SIM:NOBODY')")
    async with connected(any_database) as conn:
        found = await instruments.by_symbol(conn, ["SIM:NOBODY"])
    async with tracking(any_database, Recorder()) as made:
        made.follow(found)
        await answer(any_database, "SELECT active FROM market.instruments WHERE ticker = 'NOBODY'", [(False,)])


async def new(database: Database, *tickers: str) -> list[Instrument]:
    """Instruments that were added while all runs."""
    await add_instrument(database, "OLD")
    for ticker in tickers:
        database.execute("SELECT market.track(%s)", (f"SIM:{ticker}",))
    async with connected(database) as conn:
        return await instruments.by_symbol(conn, [f"SIM:{ticker}" for ticker in tickers])


async def test_what_is_followed_does_not_wait_for_a_venue_that_is_slow_to_list(any_database: Database) -> None:
    """Regression: what was added or released next waited for the venue's REST."""
    one, two = await new(any_database, "ONE", "TWO")
    asked: list[str] = []
    released = asyncio.Event()

    async def slow(tickers: Sequence[str]) -> dict[str, Listing]:
        asked.extend(tickers)
        await released.wait()
        return await listings(tickers)

    receiver = Recorder()
    async with tracking(any_database, receiver, slow) as made:
        made.follow([one])
        await receiver.until(lambda: receiver.instruments.keys() == {"ONE"})
        made.follow([two])
        await receiver.until(lambda: receiver.instruments.keys() == {"TWO"})
        assert asked == ["ONE"]
        made.follow([one, two])
        await receiver.until(lambda: receiver.instruments.keys() == {"ONE", "TWO"})
        released.set()
        query = "SELECT count(*) FROM market.instruments WHERE base = 'BASE'"
        await answer(any_database, query, [(2,)])


async def test_what_is_dropped_before_the_venue_was_asked_is_not_asked_for(any_database: Database) -> None:
    first, dropped, last = await new(any_database, "A", "B", "C")
    asked: list[str] = []

    async def dropping(tickers: Sequence[str]) -> dict[str, Listing]:
        asked.extend(tickers)
        made.follow([first, last])
        return await listings(tickers)

    async with tracking(any_database, Recorder(), dropping) as made:
        made.follow([first, dropped, last])
        query = "SELECT ticker FROM market.instruments WHERE base = 'BASE' ORDER BY ticker"
        await answer(any_database, query, [("A",), ("C",)])
    assert "B" not in asked


async def test_what_the_venue_says_nothing_of_stays_tracked(any_database: Database) -> None:
    found = await new(any_database, "A", "B")

    async def partly(tickers: Sequence[str]) -> dict[str, Listing]:
        return {"A": Listing()} if "A" in tickers else await listings(tickers)

    async with tracking(any_database, Recorder(), partly) as made:
        made.follow(found)
        await answer(any_database, "SELECT 1 FROM market.instruments WHERE ticker = 'B' AND base = 'BASE'", [(1,)])
    wanted = [("A", True, None), ("B", True, "BASE")]
    query = "SELECT ticker, active, base FROM market.instruments WHERE ticker IN ('A', 'B') ORDER BY ticker"
    assert any_database.execute(query) == wanted


async def test_what_was_switched_off_stays_off_when_an_ingester_names_it_again(database: Database) -> None:
    await add_instrument(database, "ONE")
    database.execute("SELECT market.untrack('SIM:ONE')")
    await add_instrument(database, "ONE")
    assert database.execute("SELECT active, untracked_at IS NULL FROM market.instruments") == [(False, False)]
    database.execute("SELECT market.track('SIM:ONE')")
    assert database.execute("SELECT active, untracked_at IS NULL FROM market.instruments") == [(True, True)]


@pytest.mark.parametrize(
    ("symbol", "error"),
    [
        ("NOWHERE:ONE", "no instrument of the source 'NOWHERE' is known"),
        ("ONE", "no instrument of the source 'ONE' is known"),
        ("SIM:one two", "instruments_ticker_check"),
        ("SIM:", "instruments_ticker_check"),
    ],
)
async def test_what_cannot_be_tracked_is_refused(any_database: Database, symbol: str, error: str) -> None:
    await add_instrument(any_database, "ONE")
    with pytest.raises(psycopg.Error, match=error):
        any_database.execute("SELECT market.track(%s)", (symbol,))
    assert any_database.execute("SELECT count(*) FROM market.instruments") == [(1,)]
