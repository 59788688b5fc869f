"""Gaps filled from a venue's past: what is stored, what the table then says is missing, and how little is asked for."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from app import db
from app.market import store as market
from app.market.intervals import STORED
from app.market.model import Instrument, InstrumentId, Tick, to_micros
from app.market.store import ALWAYS, NEVER, Range
from ingest import repair
from ingest.answer import NO_LONGER_KEPT, NO_SUCH_IDS
from ingest.backoff import Backoff
from ingest.copy import TickTable
from ingest.history import HistoryClient
from ingest.refresher import Refresher
from ingest.repair import Repair, RepairCounters, Repairer
from ingest.sequence import Hole
from ingest.sequence import Sequence as IdSequence
from tests.databases import Database
from tests.integration.past import PAGE, broken, busy, past, unknown
from tests.integration.reckoning import reckon
from tests.integration.ticks import add_instrument, connected, heard, listening, series, settle, store, stored

AT_ONCE = timedelta(milliseconds=20)


async def store_with_gaps(database: Database, ticks: Sequence[Tick], *, quiet: bool = True) -> None:
    """As the writer does: jumps of the ids open gaps."""
    holes, _ = IdSequence({ticks[0].instrument_id: None}).observe(ticks)
    async with connected(database) as conn:
        await TickTable(conn).write(ticks, quiet=quiet, holes=holes)


def without(ticks: Iterable[Tick], *ids: Iterable[int]) -> list[Tick]:
    left_out = {trade_id for some in ids for trade_id in some}
    return [tick for tick in ticks if tick.trade_id not in left_out]


def gaps(database: Database) -> list[tuple[Any, ...]]:
    return database.execute("SELECT from_id, to_id, state, reason FROM market.gaps ORDER BY from_id, to_id")


def make(database: Database, client: HistoryClient, *instruments: Instrument, **options: Any) -> Repairer:
    owned = {instrument.id: instrument for instrument in instruments}
    given: dict[str, Any] = {"patience": 0.0, "every": AT_ONCE, **options}
    return Repairer(database.writer, client, lambda: owned, lambda: None, **given)


@asynccontextmanager
async def running(repairer: Repairer) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(repairer.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


async def until(condition: Callable[[], object], seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # neither tables nor counters have an event
            await asyncio.sleep(0.01)


def closed(database: Database) -> Callable[[], bool]:
    """Whether no gap is open."""
    return lambda: not database.execute("SELECT 1 FROM market.gaps WHERE state = 'open'")


async def one_turn(database: Database, client: HistoryClient, instrument: Instrument) -> RepairCounters:
    """A single turn on the only gap."""
    counters = RepairCounters()
    ((_, *rest),) = database.execute(
        "SELECT instrument_id, from_id, to_id, from_time, to_time FROM market.gaps WHERE state = 'open'"
    )
    from_id, to_id, start, end = rest
    async with connected(database) as conn:
        gap = Hole(instrument.id, from_id, to_id, to_micros(start), to_micros(end))
        await Repair(conn, client, counters).turn(instrument, gap)
    return counters


async def assert_candles_exact(database: Database, instrument: Instrument, ticks: Sequence[Tick]) -> None:
    """Every level as computed by other means, and every candle complete."""
    async with await db.connect(database.app, "test", numerics_as_text=True) as conn:
        for interval in STORED:
            wanted = Range(ALWAYS, NEVER, 5000, newest=False)
            found = await market.candles(conn, instrument, interval, UTC, wanted, datetime.now(UTC))
            rows = [
                (
                    c.time,
                    *(c.open, c.high, c.low, c.close, c.volume, c.quote_volume, c.trades),
                    *(c.taker_buy_volume, c.taker_buy_quote_volume, c.first_id, c.last_id),
                )
                for c in found
            ]
            assert rows == reckon(ticks, interval), interval
            assert all(c.complete for c in found), interval


async def test_repairer_fills_gaps_and_candles_of_every_level_are_exact_afterwards(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 400, step=45)
    await store_with_gaps(database, without(ticks, range(11, 14), range(50, 136), range(300, 301)))
    await settle(database)
    async with past(ticks) as (venue, client):
        repairer = make(database, client, instrument)
        async with running(repairer):
            await until(closed(database))
            await until(lambda: repairer.counters.filled == 3)  # counted once it is committed
    assert stored(database, instrument) == ticks
    assert gaps(database) == [(11, 13, "filled", None), (50, 135, "filled", None), (300, 300, "filled", None)]
    counters = repairer.counters
    assert (counters.ticks, counters.filled, counters.unfillable, counters.failed) == (90, 3, 0, 0)
    assert venue.asked == [300, 11, *range(50, 136, PAGE)]
    await settle(database)
    await assert_candles_exact(database, instrument, ticks)


async def test_repair_marks_exactly_what_it_stored_and_tells_of_the_gap(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 30)
    await store_with_gaps(database, without(ticks, range(10, 15)))
    await settle(database)
    async with past(ticks) as (_, client), listening(database, "gaps") as told, listening(database, "ticks") as quiet:
        await one_turn(database, client, instrument)
        assert [json.loads(payload) for payload in await heard(told)] == [
            [[instrument.id, 10, 14, ticks[8].time_us, ticks[14].time_us, "filled"]]
        ]
        assert await heard(quiet) == []
    assert database.execute("SELECT instrument_id, from_time, to_time FROM market.stale_ranges") == [
        (instrument.id, ticks[9].time, ticks[13].time)
    ]


async def test_repair_splits_a_gap_where_the_exchange_has_no_trades(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 60)
    await store_with_gaps(database, without(ticks, range(5, 51)))
    there = without(ticks, [5], range(9, 12), range(20, 43), [50])
    async with past(there) as (_, client):
        repairer = make(database, client, instrument)
        async with running(repairer):
            await until(lambda: closed(database)() and repairer.counters.unfillable == 4)
    assert stored(database, instrument) == there
    assert gaps(database) == [
        (5, 5, "unfillable", NO_SUCH_IDS),
        (6, 8, "filled", None),
        (9, 11, "unfillable", NO_SUCH_IDS),
        (12, 19, "filled", None),
        (20, 42, "unfillable", NO_SUCH_IDS),
        (43, 49, "filled", None),
        (50, 50, "unfillable", NO_SUCH_IDS),
    ]
    assert repairer.counters.filled == 3
    times = database.execute("SELECT from_time, to_time FROM market.gaps WHERE from_id = 9")
    assert times == [(ticks[7].time, ticks[11].time)]


async def test_repair_of_a_gap_without_any_trades_makes_it_unfillable_as_a_whole(database: Database) -> None:
    instrument = await add_instrument(database)
    there = without(series(instrument, 60), range(5, 51))
    await store_with_gaps(database, there)
    async with past(there) as (venue, client):
        await one_turn(database, client, instrument)
    assert gaps(database) == [(5, 50, "unfillable", NO_SUCH_IDS)]
    assert venue.asked == [5]


async def test_repair_that_is_refused_leaves_the_gap_unfillable_for_the_reason_given(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 60)
    await store_with_gaps(database, without(ticks, range(5, 51)))
    async with past(ticks) as (venue, client):
        venue.failures += [unknown()]
        counters = await one_turn(database, client, instrument)
    ((from_id, to_id, state, reason),) = gaps(database)
    assert (from_id, to_id, state) == (5, 50, "unfillable")
    assert "Invalid symbol." in reason
    assert counters.failed == 1


async def test_repairer_keeps_a_gap_open_while_the_exchange_fails_and_fills_it_then(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 60)
    await store_with_gaps(database, without(ticks, range(5, 51)))
    async with past(ticks) as (venue, client):
        venue.failures += [broken(), broken()]
        repairer = make(database, client, instrument)
        async with running(repairer):
            await until(closed(database))
    assert gaps(database) == [(5, 50, "filled", None)]
    assert repairer.counters.failed == 2


async def test_repairer_asks_nothing_while_the_exchange_wants_to_be_left_alone(any_database: Database) -> None:
    one, other = [await add_instrument(any_database, ticker) for ticker in ("AUSDT", "BUSDT")]
    ticks = series(one, 30)
    await store_with_gaps(any_database, without(ticks, [7], [9]))
    await store_with_gaps(any_database, without(series(other, 30), [7]))
    async with past(ticks) as (venue, client):
        venue.failures += [busy(1)]
        asked: list[float] = []

        async def note(_: int) -> None:
            asked.append(asyncio.get_running_loop().time())

        venue.before = note
        async with running(make(any_database, client, one, every=timedelta(seconds=60))):
            await until(lambda: len(asked) == 2)
    assert asked[1] - asked[0] >= 0.99


async def test_repair_that_was_interrupted_goes_on_without_asking_for_a_page_twice(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 100)
    await store_with_gaps(database, without(ticks, range(5, 96)))
    there = without(ticks, range(31, 34))
    async with past(there) as (venue, client):
        reached = asyncio.Event()

        async def stall(from_id: int) -> None:
            if from_id >= 48 and not reached.is_set():
                reached.set()
                await asyncio.sleep(60)

        venue.before = stall
        async with running(make(database, client, instrument)):
            await asyncio.wait_for(reached.wait(), 15)
        pages = [5, 15, 25, 38, 48]
        assert venue.asked == pages
        assert gaps(database) == [
            (5, 30, "filled", None),
            (31, 33, "unfillable", NO_SUCH_IDS),
            (34, 95, "open", None),
        ]
        async with running(make(database, client, instrument)):
            await until(closed(database))
        assert venue.asked == [*pages, 48, 58, 68, 78, 88]
    assert stored(database, instrument) == there


async def test_repairer_goes_on_after_its_connection_was_ended(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 100)
    await store_with_gaps(database, without(ticks, range(5, 96)))
    async with past(ticks) as (venue, client):

        async def cut(from_id: int) -> None:
            if from_id == 45:
                await asyncio.to_thread(database.terminate, "tickwick repair")

        venue.before = cut
        async with running(make(database, client, instrument)):
            await until(lambda: venue.asked.count(45) == 1)
            venue.before = None
            await until(closed(database))
    assert stored(database, instrument) == ticks
    assert venue.asked == [5, 15, 25, 35, 45, 45, 55, 65, 75, 85, 95]


async def test_gap_that_closes_by_itself_costs_no_request(any_database: Database) -> None:
    instrument = await add_instrument(any_database)
    ticks = series(instrument, 30)
    await store_with_gaps(any_database, without(ticks, [7]))
    await store(any_database, [ticks[6]])
    async with past(ticks) as (venue, client):
        counters = await one_turn(any_database, client, instrument)
    assert gaps(any_database) == [(7, 7, "filled", None)]
    assert venue.asked == []
    assert (counters.ticks, counters.filled) == (0, 1)


async def test_repairer_leaves_a_gap_alone_that_has_just_opened(any_database: Database) -> None:
    instrument = await add_instrument(any_database)
    ticks = series(instrument, 30)
    await store_with_gaps(any_database, without(ticks, [7], [20]))
    any_database.execute("UPDATE market.gaps SET opened_at = now() - interval '1 minute' WHERE from_id = 20")
    async with past(ticks) as (venue, client), running(make(any_database, client, instrument, patience=30.0)):
        await until(lambda: (20, 20, "filled", None) in gaps(any_database))
    assert venue.asked == [20]
    assert gaps(any_database)[0] == (7, 7, "open", None)


async def test_gap_that_opened_in_the_future_is_due(any_database: Database) -> None:
    """Regression: after the clock was set back, it waited until the clock had caught up."""
    instrument = await add_instrument(any_database)
    ticks = series(instrument, 20)
    await store_with_gaps(any_database, without(ticks, range(5, 9)))
    any_database.execute("UPDATE market.gaps SET opened_at = now() + interval '1 hour'")
    async with past(ticks) as (_, client):
        repairer = make(any_database, client, instrument, patience=1.0)
        async with running(repairer):
            await until(closed(any_database))
    assert stored(any_database, instrument) == ticks


async def test_repairer_that_is_woken_looks_at_once(any_database: Database) -> None:
    instrument = await add_instrument(any_database)
    ticks = series(instrument, 30)
    async with past(ticks) as (_, client):
        repairer = make(any_database, client, instrument, every=timedelta(hours=1))
        async with running(repairer):
            await until(
                lambda: any_database.execute(
                    "SELECT 1 FROM pg_stat_activity WHERE application_name = 'tickwick repair'"
                    " AND query LIKE '%market.gaps%'"
                )
            )
            await store_with_gaps(any_database, without(ticks, [7]))
            repairer.wake()
            await until(closed(any_database))


async def test_repairers_of_one_instrument_do_not_work_at_the_same_time(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 100)
    await store_with_gaps(database, without(ticks, range(5, 96)))
    async with past(ticks) as (venue, client):
        one, two = (make(database, client, instrument) for _ in range(2))
        async with running(one), running(two):
            await until(closed(database))
            await until(lambda: one.counters.filled + two.counters.filled == 1)
    assert stored(database, instrument) == ticks
    assert venue.asked == [*range(5, 96, PAGE)]
    assert one.counters.ticks + two.counters.ticks == 91


async def test_repairer_looks_at_owned_instruments_with_contiguous_ids_alone(any_database: Database) -> None:
    ours, quotes, foreign = (
        await add_instrument(any_database, "AUSDT"),
        await add_instrument(any_database, "BUSDT", feed="quote", contiguous_ids=False),
        await add_instrument(any_database, "CUSDT"),
    )
    for instrument in (ours, quotes, foreign):
        await store_with_gaps(any_database, without(series(instrument, 30), [7]))
    async with past(series(ours, 30)) as (venue, client), running(make(any_database, client, ours, quotes)):
        await until(
            lambda: (
                not any_database.execute(
                    "SELECT 1 FROM market.gaps WHERE state = 'open' AND instrument_id = %s", (ours.id,)
                )
            )
        )
    assert venue.asked == [7]
    assert [state for _, _, state, _ in gaps(any_database)].count("open") == 2


async def test_ticks_that_are_no_longer_kept_make_a_gap_unfillable_up_to_those_that_are(database: Database) -> None:
    instrument = await add_instrument(database)
    database.execute("UPDATE ops.storage SET compress_after = '3 days', drop_ticks_after = '10 days'")
    start = datetime.now(UTC) - timedelta(days=12)
    ticks = series(instrument, 240, start, step=3600)
    known = [*ticks[:1], *ticks[200:]]
    database.execute(
        "INSERT INTO market.gaps (instrument_id, from_id, to_id, from_time, to_time) VALUES (%s, 2, 200, %s, %s)",
        (instrument.id, ticks[0].time, ticks[200].time),
    )
    await store(database, known[1:], quiet=True)
    async with past(ticks) as (venue, client), running(make(database, client, instrument)):
        await until(closed(database))
    unfillable, filled = gaps(database)
    first_kept = unfillable[1] + 1
    assert unfillable == (2, first_kept - 1, "unfillable", NO_LONGER_KEPT)
    assert filled == (first_kept, 200, "filled", None)
    assert abs(ticks[first_kept - 1].time - (datetime.now(UTC) - timedelta(days=9))) <= timedelta(hours=1, minutes=2)
    assert stored(database, instrument) == ticks[first_kept - 1 :]
    assert venue.asked[0] == first_kept


async def test_gap_older_than_ticks_are_kept_is_unfillable_without_asking(any_database: Database) -> None:
    instrument = await add_instrument(any_database)
    ticks = series(instrument, 30)
    await store_with_gaps(any_database, without(ticks, range(7, 20)))
    any_database.execute("UPDATE ops.storage SET drop_ticks_after = '10 days'")
    async with past(ticks) as (venue, client):
        await one_turn(any_database, client, instrument)
    assert gaps(any_database) == [(7, 19, "unfillable", NO_LONGER_KEPT)]
    assert venue.asked == venue.asked_times == []


def nothing(ticks: list[Tick]) -> list[Tick]:
    return []


def too_early(ticks: list[Tick]) -> list[Tick]:
    return [changed(tick, trade_id=tick.trade_id - 5) for tick in ticks[:5]]


def descending(ticks: list[Tick]) -> list[Tick]:
    return ticks[::-1]


def repeated(ticks: list[Tick]) -> list[Tick]:
    return [ticks[0], ticks[0], *ticks[1:]]


def foreign(ticks: list[Tick]) -> list[Tick]:
    return [changed(tick, instrument_id=InstrumentId(tick.instrument_id + 1)) for tick in ticks]


def long_ago(ticks: list[Tick]) -> list[Tick]:
    return [changed(tick, time_us=tick.time_us - 3_600_000_000) for tick in ticks]


def changed(tick: Tick, **changes: Any) -> Tick:
    return msgspec.structs.replace(tick, **changes)


@pytest.mark.parametrize("wrong", [nothing, too_early, descending, repeated, foreign, long_ago])
async def test_answers_that_cannot_be_true_store_nothing_and_prove_nothing(
    any_database: Database, wrong: Callable[[list[Tick]], list[Tick]]
) -> None:
    instrument = await add_instrument(any_database)
    ticks = series(instrument, 60)
    known = without(ticks, range(20, 51))
    await store_with_gaps(any_database, known)
    async with past(ticks) as (venue, client):
        venue.answer = lambda from_id: wrong([tick for tick in ticks if tick.trade_id >= from_id][:PAGE])
        repairer = make(any_database, client, instrument)
        async with running(repairer):
            await until(lambda: repairer.counters.failed >= 1)
            assert gaps(any_database) == [(20, 50, "open", None)]
            assert stored(any_database, instrument) == known
            venue.answer = None
            await until(closed(any_database))
    assert stored(any_database, instrument) == ticks


async def test_instrument_that_the_exchange_tells_nothing_of_does_not_hold_up_another(any_database: Database) -> None:
    one, other = [await add_instrument(any_database, ticker) for ticker in ("AUSDT", "BUSDT")]
    ticks = series(one, 30)
    await store_with_gaps(any_database, without(series(other, 30), [7]))
    await store_with_gaps(any_database, without(ticks, [7], range(10, 20)))
    async with past(ticks) as (venue, client):
        venue.answer = lambda from_id: (
            [tick for tick in ticks if tick.trade_id >= from_id][:PAGE] if len(venue.asked) > 1 else []
        )
        async with running(make(any_database, client, one, other, every=AT_ONCE)):
            await until(lambda: (10, 19, "filled", None) in gaps(any_database))


async def test_gap_that_the_exchange_tells_nothing_of_does_not_hold_up_its_neighbours(any_database: Database) -> None:
    """Regression: all gaps of the instrument waited with it, the smallest first again and again."""
    instrument = await add_instrument(any_database)
    ticks = series(instrument, 60)
    await store_with_gaps(any_database, without(ticks, [7], range(20, 51)))
    async with past(ticks) as (venue, client):
        venue.answer = lambda from_id: [tick for tick in ticks if tick.trade_id >= from_id > 7][:PAGE]
        async with running(make(any_database, client, instrument)):
            await until(lambda: (20, 50, "filled", None) in gaps(any_database))
            assert gaps(any_database)[0] == (7, 7, "open", None)
            venue.answer = None
            await until(closed(any_database))
    assert venue.asked[0] == 7


class Forever(Backoff):
    def next(self) -> float:
        return 3600.0


async def test_more_postponed_gaps_than_are_looked_at_at_once_hold_up_none(
    any_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, "Backoff", Forever)
    instrument = await add_instrument(any_database)
    ticks = series(instrument, 260)
    hopeless = range(2, 242, 2)
    await store_with_gaps(any_database, without(ticks, hopeless, range(250, 253)))
    async with past(ticks) as (venue, client):
        venue.answer = lambda from_id: [tick for tick in ticks if tick.trade_id >= from_id >= 250][:PAGE]
        async with running(make(any_database, client, instrument)):
            await until(lambda: (250, 252, "filled", None) in gaps(any_database))
    assert venue.asked == [*hopeless, 250]


async def test_instrument_with_more_postponed_gaps_than_are_remembered_rests_and_others_do_not(
    any_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, "Backoff", Forever)
    monkeypatch.setattr(repair, "MOST_POSTPONED", 5)
    one, other = [await add_instrument(any_database, ticker) for ticker in ("AUSDT", "BUSDT")]
    ticks = series(other, 260)
    hopeless = range(2, 242, 2)
    await store_with_gaps(any_database, without(series(one, 260), hopeless))
    await store_with_gaps(any_database, without(ticks, range(250, 253)))
    async with past(ticks) as (venue, client):
        venue.answer = lambda from_id: [tick for tick in ticks if tick.trade_id >= from_id >= 250][:PAGE]
        async with running(make(any_database, client, one, other)):
            await until(lambda: (250, 252, "filled", None) in gaps(any_database))
    assert venue.asked == [*hopeless[:100], 250]


async def test_page_that_takes_too_long_is_given_up_for_another_gap(
    any_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(repair, "Backoff", Forever)
    instrument = await add_instrument(any_database)
    ticks = series(instrument, 60)
    await store_with_gaps(any_database, without(ticks, [7], range(20, 51)))
    async with past(ticks) as (venue, client):

        async def hang(from_id: int) -> None:
            if from_id == 7:
                await asyncio.sleep(60)

        venue.before = hang
        async with running(make(any_database, client, instrument)):
            await until(lambda: (20, 50, "filled", None) in gaps(any_database))
    assert gaps(any_database)[0] == (7, 7, "open", None)


async def test_instrument_that_another_repairs_is_tried_again_and_again_without_ever_longer_waits(
    any_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, "THEIRS_SECONDS", 0.01)
    tries = 0
    alone = Repair.alone

    def counted(self: Repair, instrument_id: InstrumentId) -> AbstractAsyncContextManager[bool]:
        nonlocal tries
        tries += 1
        return alone(self, instrument_id)

    instrument = await add_instrument(any_database)
    ticks = series(instrument, 30)
    await store_with_gaps(any_database, without(ticks, [7], [9]))
    async with past(ticks) as (venue, client), connected(any_database) as conn:
        async with Repair(conn, client, RepairCounters()).alone(instrument.id) as ours:
            assert ours
            monkeypatch.setattr(Repair, "alone", counted)
            task = asyncio.create_task(make(any_database, client, instrument, every=timedelta(hours=1)).run())
            await until(lambda: tries >= 20)
            assert venue.asked == []
        await until(closed(any_database))
        task.cancel()
        await asyncio.wait([task])


async def test_repairer_that_falls_silent_loses_its_right_to_another(
    any_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: of a process that was frozen, the lock stayed for ever."""
    instrument = await add_instrument(any_database)
    ticks = series(instrument, 60)
    await store_with_gaps(any_database, without(ticks, range(20, 51)))
    async with past(ticks) as (venue, client):
        asked, thawed = asyncio.Event(), asyncio.Event()

        async def freeze(from_id: int) -> None:
            if not asked.is_set():
                asked.set()
                await thawed.wait()

        venue.before = freeze
        monkeypatch.setattr(repair, "SILENT_SECONDS", 0.3)
        async with running(make(any_database, client, instrument)):
            await asyncio.wait_for(asked.wait(), 15)
            monkeypatch.setattr(repair, "SILENT_SECONDS", 30.0)
            async with running(make(any_database, client, instrument)):
                await until(closed(any_database))
            thawed.set()
            await store_with_gaps(any_database, without(series(instrument, 30, ticks[-1].time, first_id=60), [70]))
            venue.ticks += series(instrument, 30, ticks[-1].time, first_id=60)[1:]
            await until(closed(any_database))  # by the first one, over another session


async def test_ticks_that_cannot_be_stored_are_unfillable_and_their_neighbours_filled(any_database: Database) -> None:
    instrument = await add_instrument(any_database)
    ticks = series(instrument, 30)
    await store_with_gaps(any_database, without(ticks, range(7, 20)))
    worthless = [changed(tick, price=-tick.price) if tick.trade_id in (9, 10) else tick for tick in ticks]
    async with past(worthless) as (_, client), running(make(any_database, client, instrument)):
        await until(closed(any_database))
    assert gaps(any_database) == [
        (7, 8, "filled", None),
        (9, 10, "unfillable", "cannot be stored: price is not above zero"),
        (11, 19, "filled", None),
    ]
    assert stored(any_database, instrument) == without(ticks, [9, 10])


async def test_large_gap_is_done_in_turns_between_which_a_small_one_goes_first(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, "PAGES_A_TURN", 4)
    instrument = await add_instrument(database)
    ticks = series(instrument, 300)
    await store_with_gaps(database, without(ticks, range(5, 250)))
    async with past(ticks) as (venue, client):

        async def open_another(from_id: int) -> None:
            if from_id == 15:
                await store_with_gaps(database, without(newest, [305]))

        venue.before = open_another
        newest = series(instrument, 10, ticks[-1].time, first_id=300)
        venue.ticks += newest[1:]
        async with running(make(database, client, instrument)):
            await until(closed(database))
    assert venue.asked[:6] == [5, 15, 25, 35, 305, 45]
    assert [gap for gap in gaps(database) if gap[0] < 300] == [
        (first, min(first + 39, 249), "filled", None) for first in range(5, 250, 40)
    ]


async def test_gap_with_many_holes_is_done_some_at_a_time_and_asks_for_no_page_twice(
    database: Database,
) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 260)
    await store_with_gaps(database, without(ticks, range(5, 250)))
    await store(database, [tick for tick in ticks if tick.trade_id % 2], quiet=True)
    async with past(ticks) as (venue, client), running(make(database, client, instrument)):
        await until(closed(database))
    assert stored(database, instrument) == ticks
    assert venue.asked == [*range(6, 250, PAGE)]
    states = gaps(database)
    assert [state for _, _, state, _ in states] == ["filled"] * len(states)
    assert [gap[0] for gap in states] == [5, *(gap[1] + 1 for gap in states[:-1])]
    assert states[-1][1] == 249


async def test_refresher_and_repairer_that_close_the_same_gap_agree(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 60)
    await store_with_gaps(database, without(ticks, range(5, 51)))
    async with past(ticks) as (venue, client):

        async def close_it(from_id: int) -> None:
            if from_id == 25:
                await store(database, ticks, quiet=True)
                async with connected(database) as conn:
                    await Refresher(conn, database.engine).fill_gaps()

        venue.before = close_it
        counters = await one_turn(database, client, instrument)
    assert gaps(database) == [(5, 50, "filled", None)]
    assert counters.filled == 0
    assert stored(database, instrument) == ticks


async def test_repairer_that_is_cancelled_while_it_stores_a_page_ends(
    any_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    instrument = await add_instrument(any_database)
    ticks = series(instrument, 60)
    await store_with_gaps(any_database, without(ticks, range(5, 51)))
    async with past(ticks) as (_, client):
        task = asyncio.create_task(make(any_database, client, instrument).run())

        def cancelling(conn: repair.AsyncConnection[Any]) -> TickTable:
            return TickTable(conn, handed_over=task.cancel)

        monkeypatch.setattr(repair, "TickTable", cancelling)
        await asyncio.wait([task], timeout=15)
        assert task.cancelled()
    assert gaps(any_database) == [(5, 50, "open", None)]


async def test_interruption_that_leaves_the_connection_busy_passes_through(any_database: Database) -> None:
    instrument = await add_instrument(any_database)

    async def interrupted() -> None:
        async with connected(any_database) as conn, Repair(conn, client, RepairCounters()).alone(instrument.id):
            conn.pgconn.send_query(b"SELECT pg_sleep(0.1)")
            raise asyncio.CancelledError

    async with past([]) as (_, client):
        with pytest.raises(asyncio.CancelledError):
            await interrupted()
