"""Backfill by hand: what is missing of a range is fetched, once, whatever came between."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from app.errors import OperatorError
from app.market.model import Tick
from app.settings import Settings
from ingest import backfill as command
from ingest.answer import NO_SUCH_IDS
from ingest.backfill import Report
from ingest.history import HistoryUnavailable
from ingest.instruments import Listing
from ingest.sources.binance import binance
from ingest.venues import Venue
from tests.databases import Database
from tests.integration.past import PAGE, Past, broken, busy, unknown
from tests.integration.ticks import NOON, add_instrument, connected, series, settle, store, stored

STEP = timedelta(seconds=30)


class Backfill:
    """A venue that knows some ticks, and backfills from it."""

    def __init__(self, database: Database, venue: Past) -> None:
        self.venue = venue
        self.progress: list[tuple[int, int]] = []
        self.said: list[str] = []
        self._settings = Settings(dsn=database.writer, source="simulator")

    async def run(self, start: datetime, end: datetime, symbol: str = "SIM:BTCUSDT") -> Report:
        return await command.backfill(
            self._settings,
            symbol,
            start,
            end,
            progress=lambda done, total: self.progress.append((done, total)),
            say=self.said.append,
        )


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "ATTEMPTS", 2)


@asynccontextmanager
async def backfilling(
    database: Database, ticks: Sequence[Tick], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Backfill]:
    venue = Past(ticks)

    async def listings(tickers: Sequence[str]) -> dict[str, Listing]:
        return {ticker: Listing("BTC", "USDT", 3) for ticker in tickers}

    async with venue.serve():
        found = Venue(source=binance("trade"), history=venue.history(), listings=listings)
        monkeypatch.setattr(command, "venue_for", lambda settings, name, feed: found)
        yield Backfill(database, venue)


def gaps(database: Database) -> list[tuple[Any, ...]]:
    return database.execute("SELECT from_id, to_id, state, reason FROM market.gaps ORDER BY from_id, to_id")


def without(ticks: Iterable[Tick], *ids: Iterable[int]) -> list[Tick]:
    left_out = {trade_id for some in ids for trade_id in some}
    return [tick for tick in ticks if tick.trade_id not in left_out]


async def test_backfill_fetches_what_is_missing_of_a_range_and_refreshes_its_candles(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 200, step=30)
    await store(database, without(ticks, range(1, 60), range(71, 75), range(90, 201)), quiet=True)
    await settle(database)
    async with backfilling(database, ticks, monkeypatch) as backfill:
        report = await backfill.run(ticks[20].time, ticks[150].time)
    assert report == Report(new=39 + 4 + 61, there=26)
    assert stored(database, instrument) == ticks[20:150]
    assert backfill.progress[0] == (0, 104)
    assert backfill.progress[-1] == (104, 104)
    assert [state for _, _, state, _ in gaps(database)] == ["filled"] * 3
    assert database.execute("SELECT count(*) FROM market.stale_ranges") == [(0,)]
    assert database.execute("SELECT sum(trades), min(first_id), max(last_id) FROM market.candles_1m") == [
        (130, 21, 150)
    ]


async def test_backfill_again_fetches_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 60)
    async with backfilling(database, without(ticks, range(20, 31)), monkeypatch) as backfill:
        assert await backfill.run(NOON, ticks[-1].time) == Report(new=48, unfillable=11)
        asked = list(backfill.venue.asked)
        assert await backfill.run(NOON, ticks[-1].time) == Report(there=48, unfillable=11)
        assert backfill.venue.asked == asked
    assert (20, 30, "unfillable", NO_SUCH_IDS) in gaps(database)


async def test_backfill_adds_an_instrument_that_is_new_without_tracking_it(
    any_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    instrument = await add_instrument(any_database, "OTHER")
    ticks = series(instrument, 30)
    async with backfilling(any_database, ticks, monkeypatch) as backfill:
        backfill.venue.answer = lambda from_id: series_of(any_database, ticks, from_id)
        report = await backfill.run(NOON, NOON + timedelta(days=1), "SIM:NEWUSDT")
    assert report == Report(new=30)
    assert any_database.execute(
        "SELECT feed, contiguous_ids, active, price_scale FROM market.instruments WHERE ticker = 'NEWUSDT'"
    ) == [("trade", True, False, 3)]


def series_of(database: Database, ticks: Sequence[Tick], from_id: int) -> list[Tick]:
    """The same ticks as those of the newest instrument."""
    ((newest,),) = database.execute("SELECT max(id) FROM market.instruments")
    return [msgspec.structs.replace(tick, instrument_id=newest) for tick in ticks if tick.trade_id >= from_id][:PAGE]


async def test_backfill_until_now_ends_with_the_newest_trade(
    any_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    instrument = await add_instrument(any_database)
    now = datetime.now(UTC)
    ticks = series(instrument, 100, now - timedelta(seconds=700), step=6)
    async with backfilling(any_database, ticks, monkeypatch) as backfill:
        assert await backfill.run(ticks[10].time, now) == Report(new=90)
    assert stored(any_database, instrument) == ticks[10:]


async def test_backfill_of_a_time_without_trades_does_nothing(
    any_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    instrument = await add_instrument(any_database)
    ticks = series(instrument, 10)
    async with backfilling(any_database, ticks, monkeypatch) as backfill:
        assert await backfill.run(NOON + timedelta(days=1), NOON + timedelta(days=2)) == Report()
        assert await backfill.run(NOON - timedelta(days=2), NOON - timedelta(days=1)) == Report()
    assert gaps(any_database) == []


async def test_backfill_that_was_cancelled_leaves_its_pages_and_the_rest_as_an_open_gap(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 100)
    async with backfilling(database, ticks, monkeypatch) as backfill:
        reached = asyncio.Event()

        async def stall(from_id: int) -> None:
            if from_id == 51 and not reached.is_set():
                reached.set()
                await asyncio.sleep(60)

        backfill.venue.before = stall
        task = asyncio.create_task(backfill.run(NOON, ticks[-1].time))
        await asyncio.wait_for(reached.wait(), 15)
        task.cancel()
        await asyncio.wait([task])
        assert stored(database, instrument) == ticks[:50]
        assert gaps(database) == [(1, 99, "open", None)]
        backfill.venue.asked.clear()
        assert await backfill.run(NOON, ticks[-1].time) == Report(new=49, there=50)
    assert backfill.venue.asked == [*range(51, 100, PAGE)]
    assert stored(database, instrument) == ticks[:99]


async def test_backfill_waits_out_a_limit(any_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    instrument = await add_instrument(any_database)
    ticks = series(instrument, 30)
    async with backfilling(any_database, ticks, monkeypatch) as backfill:

        async def refuse_once(from_id: int) -> None:
            if from_id == 11:
                backfill.venue.before = None
                backfill.venue.failures += [busy(1)]

        backfill.venue.before = refuse_once
        assert await backfill.run(NOON, ticks[-1].time) == Report(new=29)
    assert any(text.startswith("waiting 1 s") for text in backfill.said)


@pytest.mark.usefixtures("no_patience")
async def test_backfill_gives_up_on_an_exchange_that_keeps_failing_and_leaves_the_rest_open(
    any_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    instrument = await add_instrument(any_database)
    ticks = series(instrument, 60)
    async with backfilling(any_database, ticks, monkeypatch) as backfill:

        async def fail(from_id: int) -> None:
            if from_id >= 31:
                backfill.venue.failures += [broken()]

        backfill.venue.before = fail
        assert await backfill.run(NOON, ticks[-1].time) == Report(new=30, missing=29)
    assert stored(any_database, instrument) == ticks[:30]
    assert gaps(any_database) == [(1, 59, "open", None)]


@pytest.mark.usefixtures("no_patience")
async def test_backfill_from_an_exchange_that_does_not_answer_fails_and_adds_nothing(
    any_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with backfilling(any_database, [], monkeypatch) as backfill:
        backfill.venue.failures += [broken() for _ in range(100)]
        with pytest.raises(HistoryUnavailable):
            await backfill.run(NOON, NOON + STEP)
    assert any_database.execute("SELECT 1 FROM market.instruments") == []


async def test_backfill_of_an_instrument_that_the_exchange_does_not_know_adds_nothing(
    any_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with backfilling(any_database, [], monkeypatch) as backfill:
        backfill.venue.failures += [unknown()]
        with pytest.raises(OperatorError, match="Invalid symbol"):
            await backfill.run(NOON, NOON + STEP, "SIM:NOSUCH")
    assert any_database.execute("SELECT 1 FROM market.instruments WHERE ticker = 'NOSUCH'") == []


async def test_backfill_refuses_an_instrument_whose_ids_prove_nothing(
    any_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_instrument(any_database, contiguous_ids=False)
    async with backfilling(any_database, [], monkeypatch) as backfill:
        with pytest.raises(OperatorError, match="contiguous"):
            await backfill.run(NOON, NOON + STEP)


async def test_backfill_waits_while_another_process_repairs(
    any_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    instrument = await add_instrument(any_database)
    ticks = series(instrument, 30)
    async with backfilling(any_database, ticks, monkeypatch) as backfill, connected(any_database) as other:
        await other.execute("SELECT pg_advisory_lock(hashtext('tickwick.repair'), %s)", (instrument.id,))
        task = asyncio.create_task(backfill.run(NOON, ticks[-1].time))
        await said(backfill, lambda text: "another process" in text)
        assert backfill.venue.asked == []
        await other.execute("SELECT pg_advisory_unlock(hashtext('tickwick.repair'), %s)", (instrument.id,))
        assert await asyncio.wait_for(task, 15) == Report(new=29)


async def said(backfill: Backfill, wanted: Callable[[str], bool]) -> None:
    async with asyncio.timeout(15):
        while not any(map(wanted, backfill.said)):  # noqa: ASYNC110  # a list has no event
            await asyncio.sleep(0.01)
