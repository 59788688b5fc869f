"""Tickers of any window, of many instruments at once: reckoned from ticks, and equal to what the stream keeps."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from app import db
from app.market import store, tickers
from app.market.intervals import Interval
from app.market.model import AVERAGE, Instrument, Tick, Ticker, day_start, window_start
from app.market.rolling import RollingDay
from app.stream.history import StoredHistory
from tests.databases import Database
from tests.integration.reckoning import reckon
from tests.integration.ticks import add_instrument, run_policies, series, settle, tick
from tests.integration.ticks import store as write

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
WINDOWS = [MINUTE, AVERAGE, 59 * MINUTE, HOUR, 90 * MINUTE, DAY, 7 * DAY]


def reckoned(ticks: Sequence[Tick], start: datetime) -> Ticker | None:
    """The window of one instrument, out of its ticks by the test's own means."""
    last = max(ticks, key=lambda one: (one.time_us, one.trade_id))
    minutes = reckon(ticks, "1m")
    previous = next((close for bucket, _, _, _, close, *_ in reversed(minutes) if bucket < start), None)
    size, inside = str(last.size), [one for one in ticks if one.time >= start]
    if not inside:
        assert previous is not None
        return Ticker(last.time, previous, None, None, None, None, None, "0", "0", 0, size, previous, None, None)
    inside.sort(key=lambda one: one.trade_id)
    (whole,) = reckon([_moved(one) for one in inside], "1d")
    _, first, high, low, close, volume, quote_volume, trades, _, _, first_id, last_id = whole
    change = inside[-1].price - inside[0].price
    thousandths = round(Fraction(change) * 100_000 / Fraction(inside[0].price))
    told = f"{change:f}", f"{Decimal(thousandths).scaleb(-3):f}"
    ids = first_id, last_id
    return Ticker(last.time, close, first, high, low, *told, volume, quote_volume, trades, size, previous, *ids)


def _moved(one: Tick) -> Tick:
    """The same tick in the first day of all, so that one candle holds them all."""
    return Tick(one.instrument_id, one.trade_id, 0, one.price, one.size, one.buyer_is_maker)


async def windows(database: Database, instruments: Sequence[Instrument], start: datetime) -> dict[Any, Ticker]:
    async with await db.connect(database.app, "test", numerics_as_text=True) as conn:
        return await tickers.windows(conn, instruments, start)


async def streamed(database: Database, instrument: Instrument, now: datetime) -> tuple[Ticker | None, str | None]:
    """The ticker and the average that the stream would send, resumed from the database."""
    async with db.pool(database.app, "test", 1) as pool:
        minutes, last = await StoredHistory(pool).day(instrument)
    day = RollingDay()
    day.resume(minutes, last)
    return day.ticker(now), day.average(now)


@pytest.mark.parametrize("refreshed", [False, True])
async def test_tickers_of_every_window_are_reckoned_from_their_ticks(database: Database, refreshed: bool) -> None:
    now = datetime.now(UTC)
    busy, rare, quiet, never = [await add_instrument(database, name) for name in ("BUSY", "RARE", "QUIET", "NEVER")]
    ticks = {
        busy.id: series(busy, 700, now - 8 * DAY, step=8 * 86_400 / 701),
        rare.id: [tick(rare, i, now - age, f"{i}.{i}0") for i, age in enumerate((40 * DAY, 20 * HOUR, 3 * MINUTE), 1)],
        quiet.id: [tick(quiet, 1, now - 50 * DAY, "7.7", "3"), tick(quiet, 2, now - 9 * DAY, "7.70", "0.25")],
    }
    # The trade of the higher id came a moment earlier, at the end of a minute.
    turn = day_start(now) - MINUTE / 2
    ticks[busy.id] += [tick(busy, 9_002, turn, "1.5", "2"), tick(busy, 9_001, turn + MINUTE / 600, "1.25")]
    ticks[busy.id] += series(busy, 60, now - 10 * MINUTE, step=9, first_id=10_000)
    for own in ticks.values():
        await write(database, own, quiet=True)
    await settle(database)
    if refreshed:
        run_policies(database)
    instruments = [busy, rare, quiet, never]
    for window in WINDOWS:
        start = window_start(now, window)
        found = await windows(database, instruments, start)
        assert found == {of: reckoned(own, start) for of, own in ticks.items()}, window
        assert {of: await windows(database, [of], start) for of in instruments} == {
            of: {of.id: found[of.id]} if of.id in found else {} for of in instruments
        }
    async with await db.connect(database.app, "test", numerics_as_text=True) as conn:
        last = await tickers.last_trades(conn, instruments)
        for of in (busy, rare, quiet):
            assert last[of.id] == await store.price_at(conn, of, store.NEVER)
    assert last.keys() == ticks.keys()


async def test_stream_resumed_from_the_database_tells_the_same_ticker_and_average(database: Database) -> None:
    now = datetime.now(UTC)
    for name, ages in {
        "BUSY": [*(MINUTE * i / 2 for i in range(1, 60)), DAY - MINUTE, DAY + MINUTE, 3 * DAY],
        "RARE": [2 * HOUR, 30 * DAY],
        "QUIET": [26 * HOUR, 26 * HOUR + MINUTE / 60],
        "OLD": [200 * DAY],
        "NEW": [MINUTE],
        "NEVER": [],
    }.items():
        instrument = await add_instrument(database, name)
        ticks = [tick(instrument, i, now - age, f"{i}.05", f"{i}") for i, age in enumerate(sorted(ages)[::-1], 1)]
        await write(database, ticks, quiet=True)
        await settle(database)
        run_policies(database)
        ticker = (await windows(database, [instrument], day_start(now))).get(instrument.id)
        average = (await windows(database, [instrument], window_start(now, AVERAGE))).get(instrument.id)
        assert await streamed(database, instrument, now) == (ticker, average.average if average else None), name


async def test_tickers_of_nothing_are_none(any_database: Database) -> None:
    assert await windows(any_database, [], datetime(2026, 3, 2, tzinfo=UTC)) == {}


async def test_ticker_in_which_only_quotes_came_averages_to_the_last_price(any_database: Database) -> None:
    now = datetime.now(UTC)
    instrument = await add_instrument(any_database, feed="quote", contiguous_ids=False)
    await write(any_database, [tick(instrument, i, now - MINUTE / i, f"{i}.10", "0") for i in (2, 3)])
    found = (await windows(any_database, [instrument], day_start(now)))[instrument.id]
    assert (found.volume, found.average, found.trades) == ("0", "3.10", 2)


async def test_candles_that_need_no_proof_ask_for_no_gaps(any_database: Database) -> None:
    instrument = await add_instrument(any_database)
    start = datetime(2024, 3, 15, 12, tzinfo=UTC)
    await write(any_database, series(instrument, 100, start, step=3), quiet=True)
    wanted = store.Range(store.ALWAYS, store.NEVER, 10, newest=True)
    async with await db.connect(any_database.app, "test", numerics_as_text=True) as conn:
        proved = await store.candles(conn, instrument, Interval.M1, UTC, wanted, datetime.now(UTC))
        any_database.execute("DROP TABLE market.gaps")
        found = await store.candles(conn, instrument, Interval.M1, UTC, wanted, datetime.now(UTC), prove=False)
    assert {candle.complete for candle in proved} == {True}
    assert {candle.complete for candle in found} == {None}
    for candle in proved:
        candle.complete = None
    assert found == proved
