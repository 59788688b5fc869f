import asyncio, time
from datetime import timedelta
import pytest
from tests.integration.ticks import *
from tests.integration.past import past
from tests.integration import past as past_module
from ingest import gaps as gap_rows
from ingest.sequence import Hole
from ingest.repair import Repair, RepairCounters
import sql as queries

@pytest.mark.timeout(300)
async def test_measure(database):
    instrument = await add_instrument(database)
    n = 1_000_000
    if database.engine == "postgres":
        database.execute("SELECT market.make_room(ARRAY['2024-03-15','2024-03-16']::date[])")
    t=time.perf_counter()
    with database.connect() as conn:
        conn.execute("SET tickwick.quiet='on'")
        conn.execute("INSERT INTO market.ticks (time,instrument_id,trade_id,price,size) SELECT '2024-03-15T12:00Z'::timestamptz + i*interval '10 ms', %s, i, 100, 1 FROM generate_series(1,%s) i WHERE i %% 200 <> 0", (instrument.id,n))
        conn.execute("TRUNCATE market.stale_ranges")
    database.execute("INSERT INTO market.gaps (instrument_id, from_id, to_id, from_time,to_time,state,closed_at) SELECT %s, i,i, now(),now(),'filled',now() FROM generate_series(1,20000) i", (instrument.id,))
    database.execute("VACUUM ANALYZE")
    print(database.engine, "loaded", time.perf_counter()-t)
    whole = Hole(instrument.id, 1, n, to_micros(NOON), to_micros(NOON+timedelta(milliseconds=10*n+10)))
    async with connected(database) as conn:
        t=time.perf_counter(); m = await gap_rows.missing(conn, whole); print("missing_ids over 1M stored", len(m), time.perf_counter()-t)
        t=time.perf_counter(); c = await conn.execute(queries.load("gaps")["count_ids"], gap_rows.gap_row(whole)); print("count_ids", await c.fetchone(), time.perf_counter()-t)
        t=time.perf_counter(); c = await conn.execute(queries.load("gaps")["open_missing"], gap_rows.gap_row(whole)); print("open_missing", c.rowcount, time.perf_counter()-t)
        await conn.execute("COMMIT")
        database.execute("ANALYZE market.gaps")
        t=time.perf_counter(); c = await conn.execute(queries.load("gaps")["fill_gaps"]); print("fill_gaps 5000 open at 100 ticks/s", c.rowcount, time.perf_counter()-t)
        c = await conn.execute("EXPLAIN "+queries.load("gaps")["fill_gaps"]); print("\n".join(r[0] for r in await c.fetchall())[:1500])
    database.execute("TRUNCATE market.gaps")
    past_module.PAGE = 1000
    ticks = series(instrument, 50_000, NOON + timedelta(hours=5), step=0.01, first_id=n+1)
    gap = Hole(instrument.id, n+1, n+50_000, to_micros(NOON+timedelta(hours=5)), ticks[-1].time_us)
    async with past(ticks) as (venue, client), connected(database) as conn:
        await conn.execute(queries.load("gaps")["open_gap"], gap_rows.gap_row(gap))
        counters = RepairCounters()
        t=time.perf_counter(); await Repair(conn, client, counters).turn(instrument, gap); d=time.perf_counter()-t
        print("turn of 50 pages of 1000:", counters, d, counters.ticks/d, "ticks/s")
