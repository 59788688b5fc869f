"""Batches into the database: each tick once, none lost to a bad neighbour, announced whole and in order."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from app.market.model import Tick, from_micros, to_micros
from ingest.copy import TickTable, Written
from ingest.sequence import Hole
from tests.databases import Database
from tests.integration.ticks import NOON, add_instrument, connected, decoded, heard, listening, series, stored, tick

DAY = timedelta(days=1)


async def write(database: Database, *batches: list[Tick], **options: Any) -> list[Written]:
    async with connected(database) as conn:
        table = TickTable(conn)
        return [await table.write(batch, **options) for batch in batches]


async def test_write_stores_ticks_that_span_days_exactly_as_they_came(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 100, step=3600.000001)
    assert await write(database, ticks) == [Written(100, 0, 0)]
    assert stored(database, instrument) == ticks


async def test_write_of_nothing_does_nothing(any_database: Database) -> None:
    assert await write(any_database, []) == [Written(0, 0, 0)]


async def test_write_keeps_one_of_each_duplicate_within_a_batch(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 50)
    assert await write(database, ticks + ticks[10:20] + ticks[:5]) == [Written(50, 15, 0)]
    assert stored(database, instrument) == ticks


async def test_write_keeps_one_of_each_duplicate_across_batches_that_overlap(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 60)
    written = await write(database, ticks[:30], ticks[20:50], ticks[:30], ticks[45:])
    assert written == [Written(30, 0, 0), Written(20, 10, 0), Written(0, 30, 0), Written(10, 5, 0)]
    assert stored(database, instrument) == ticks


async def test_write_keeps_the_first_of_two_ticks_with_one_id_and_time(database: Database) -> None:
    instrument = await add_instrument(database)
    await write(database, [tick(instrument, 1, price="1")], [tick(instrument, 1, price="2"), tick(instrument, 2)])
    assert [t.price for t in stored(database, instrument)] == [Decimal(1), Decimal("100.25")]


@pytest.mark.parametrize("first", ["milliseconds", "microseconds"])
async def test_quiet_write_keeps_one_of_a_trade_told_in_milliseconds_and_in_microseconds(
    database: Database, first: str
) -> None:
    instrument = await add_instrument(database)
    exact = series(instrument, 40, NOON + timedelta(microseconds=999), step=0.250_101)
    coarse = [msgspec.structs.replace(one, time_us=one.time_us // 1000 * 1000) for one in exact]
    stored_first, again = (coarse, exact) if first == "milliseconds" else (exact, coarse)
    assert await write(database, stored_first[:30]) == [Written(30, 0, 0)]
    assert await write(database, again, again, quiet=True) == [Written(10, 30, 0), Written(0, 40, 0)]
    assert stored(database, instrument) == stored_first[:30] + again[30:]


async def test_quiet_write_keeps_equal_ids_of_other_instruments_and_other_milliseconds(database: Database) -> None:
    one, other = [await add_instrument(database, ticker) for ticker in ("BTCUSDT", "ETHUSDT")]
    await write(database, [tick(one, 1)])
    beside = [NOON - timedelta(microseconds=1), NOON + timedelta(milliseconds=1)]
    assert await write(database, [tick(other, 1), *(tick(one, 1, time) for time in beside)], quiet=True) == [
        Written(3, 0, 0)
    ]
    assert [one.time for one in stored(database, one)] == [beside[0], NOON, beside[1]]


UNFIT = [
    {"price": "0"},
    {"price": "-1"},
    {"price": "NaN"},
    {"price": "Infinity"},
    {"price": "1E+20"},
    {"price": "0.1234567890123456789"},
    {"price": "1e200000"},
    {"size": "-0.1"},
    {"size": "NaN"},
    {"size": "100000000000000000000"},
    {"trade_id": 2**63},
    {"trade_id": 10**30},
    {"time_us": 10**17},
    {"time_us": 10**30},
    {"time_us": -1},
    {"time_us": -(10**17)},
    {"trade_id": -1},
]


@pytest.mark.parametrize("wrong", UNFIT, ids=str)
async def test_write_refuses_an_unfit_tick_and_stores_its_neighbours(any_database: Database, wrong: Any) -> None:
    instrument = await add_instrument(any_database)
    ticks = series(instrument, 3)
    values = {name: Decimal(value) if isinstance(value, str) else value for name, value in wrong.items()}
    bad = Tick(**{name: values.get(name, getattr(ticks[1], name)) for name in Tick.__struct_fields__})
    assert await write(any_database, [ticks[0], bad, ticks[2]]) == [Written(2, 0, 1)]
    assert stored(any_database, instrument) == [ticks[0], ticks[2]]


async def test_write_refuses_all_of_a_batch_without_a_fit_tick(any_database: Database) -> None:
    instrument = await add_instrument(any_database)
    assert await write(any_database, [tick(instrument, 1, price="0")]) == [Written(0, 0, 1)]


async def test_write_stands_duplicates_and_unfit_ticks_in_one_batch(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 10)
    await write(database, ticks[:5])
    assert await write(database, [*ticks, tick(instrument, 11, price="0")]) == [Written(5, 5, 1)]
    assert stored(database, instrument) == ticks


async def test_write_keeps_eighteen_decimal_places_and_trailing_zeros(database: Database) -> None:
    instrument = await add_instrument(database)
    price, size = "99999999999999999999.999999999999999999", "0.100000000000000000"
    await write(database, [tick(instrument, 1, price=price, size=size)])
    assert database.execute("SELECT price::text, size::text FROM market.ticks") == [(price, size)]
    ((volume, quote),) = database.execute("SELECT volume::text, quote_volume::text FROM market.candles_1m")
    assert (volume, quote) == (size, "9999999999999999999.999999999999999999900000000000000000")


async def test_write_stores_its_holes_with_the_batch_once(database: Database) -> None:
    instrument = await add_instrument(database)
    hole = Hole(instrument.id, 5, 8, to_micros(NOON), to_micros(NOON) + 7)
    ticks = series(instrument, 2)
    await write(database, ticks, ticks, holes=[hole])
    rows = database.execute("SELECT from_id, to_id, from_time, to_time, state FROM market.gaps")
    assert rows == [(5, 8, NOON, from_micros(hole.to_time_us), "open")]


async def test_write_makes_a_partition_anew_that_was_dropped_meanwhile(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 4)
    async with connected(database) as conn:
        table = TickTable(conn)
        await table.write(ticks[:2])
        if database.engine == "postgres":
            database.execute("DROP TABLE market.ticks_20240315")
        else:
            database.execute("SELECT drop_chunks('market.ticks', older_than => '2024-04-01'::timestamptz)")
        assert await table.write(ticks[2:]) == Written(2, 0, 0)
    assert stored(database, instrument) == ticks[2:]


async def test_write_within_a_transaction_of_the_caller_is_undone_with_it(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 4)
    async with connected(database) as conn:
        table = TickTable(conn)
        async with conn.transaction(force_rollback=True):
            assert await table.write(ticks, quiet=True) == Written(4, 0, 0)
            assert await table.write(ticks, quiet=True) == Written(0, 4, 0)
    assert stored(database, instrument) == []
    assert database.execute("SELECT sum(trades) FROM market.candles_1m") == [(None,)]


async def test_notify_tells_every_tick_once_and_in_order_in_payloads_under_the_limit(database: Database) -> None:
    instruments = [await add_instrument(database, ticker) for ticker in ("BTCUSDT", "ETHUSDT")]
    widest = "99999999999999999999.123456789012345678"
    ticks = [
        tick(instrument, 2**63 - 20_000 + i, NOON + timedelta(days=80_000, microseconds=i), widest, widest, None)
        for i in range(8_000)
        for instrument in instruments
    ]
    async with listening(database, "ticks") as conn:
        await write(database, ticks)
        payloads = await heard(conn)
    assert max(len(payload.encode()) for payload in payloads) < 8000
    assert decoded(payloads) == sorted(ticks, key=lambda t: (t.instrument_id, t.trade_id))


async def test_notify_leaves_out_duplicates_and_follows_the_order_of_commits(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 300)
    async with listening(database, "ticks") as conn:
        await write(database, ticks[:100], ticks[50:200], ticks[:200], ticks[200:])
        assert decoded(await heard(conn)) == ticks


async def test_notify_keeps_every_field(any_database: Database) -> None:
    instrument = await add_instrument(any_database)
    ticks = [tick(instrument, i, price="1.50", size="0", buyer_is_maker=m) for i, m in enumerate((True, False, None))]
    async with listening(any_database, "ticks") as conn:
        await write(any_database, ticks)
        told = decoded(await heard(conn))
    assert told == ticks
    assert str(told[0].price) == "1.50"


async def test_quiet_write_announces_nothing_and_marks_each_hour_it_touched(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 5, step=1800)
    async with listening(database, "ticks") as conn:
        await write(database, ticks, quiet=True)
        assert await heard(conn) == []
    marks = database.execute("SELECT from_time, to_time FROM market.stale_ranges ORDER BY from_time")
    minutes = timedelta(minutes=1)
    assert marks == [
        (NOON, NOON + 30 * minutes),
        (NOON + 60 * minutes, NOON + 90 * minutes),
        (NOON + 120 * minutes, NOON + 120 * minutes),
    ]


async def test_quiet_ends_with_its_transaction(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 4)
    async with listening(database, "ticks") as listener, connected(database) as conn:
        table = TickTable(conn)
        await table.write(ticks[:2], quiet=True)
        await table.write(ticks[2:])
        assert decoded(await heard(listener)) == ticks[2:]


async def test_late_ticks_alone_are_marked_stale(database: Database) -> None:
    instrument = await add_instrument(database)
    ((now,),) = database.execute("SELECT now()")
    late, timely = now - timedelta(seconds=61), now - timedelta(seconds=30)
    await write(database, [tick(instrument, 1, late), tick(instrument, 2, timely)])
    assert database.execute("SELECT instrument_id, from_time, to_time FROM market.stale_ranges") == [
        (instrument.id, late, late)
    ]


async def test_ticks_about_as_old_as_those_dropped_are_refused(database: Database) -> None:
    instrument = await add_instrument(database)
    database.execute("UPDATE ops.storage SET compress_after = NULL, drop_ticks_after = '10 days'")
    ((now,),) = database.execute("SELECT now()")
    ticks = [tick(instrument, i, now - i * DAY) for i in range(12)]
    written = await write(database, ticks, ticks, quiet=True)
    assert written == [Written(9, 0, 3), Written(0, 9, 3)]
    assert stored(database, instrument) == ticks[:9]


@pytest.mark.engines("postgres")
async def test_two_who_make_room_for_the_same_day_at_once_both_find_it(database: Database) -> None:
    """Regression: the second looked in a stale cache once it had the lock, and failed on the first's partition."""
    for day in range(1, 21):
        async with connected(database) as one, connected(database) as two:
            query, days = "SELECT market.make_room(%s::date[])", ([f"2020-01-{day:02}"],)
            for conn in (one, two):
                await conn.execute("SELECT to_regclass('market.ticks_202001' || %s)", (f"{day:02}",))
            await asyncio.gather(one.execute(query, days), two.execute(query, days))
    assert database.execute("SELECT count(*) FROM pg_inherits WHERE inhparent = 'market.ticks'::regclass") == [(20,)]
