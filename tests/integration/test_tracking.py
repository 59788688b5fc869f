"""What is owned is what is followed; what was added while all runs is described, or dropped where nobody lists it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager

import psycopg
import pytest

from app.errors import OperatorError
from app.market.model import InstrumentId
from ingest import instruments
from ingest.instruments import Listing
from ingest.tracking import Tracking
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
        raise OperatorError("the exchange does not list NOBODY")
    return {ticker: Listing("BASE", "QUOTE", 7) for ticker in tickers}


@asynccontextmanager
async def tracking(database: Database, receiver: Recorder) -> AsyncIterator[Tracking]:
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
