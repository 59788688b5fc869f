"""An ingester stalls with something under way that it alone may do: a peer does it."""

import signal
from datetime import timedelta
from pathlib import Path

from app.market.model import from_micros
from tests.chaos.patience import PatientRest
from tests.chaos.processes import until
from tests.chaos.system import Measured, System, running
from tests.chaos.truth import held
from tests.databases import Database

RATE = 100
ASKED_FOR = timedelta(seconds=1.5)
"""A gap is asked for when it is a second old; an answer that takes two more is under way then."""


async def test_refreshers_process_is_stopped_a_peer_refreshes_what_comes_late(
    best_database: Database, measured: Measured, folder: Path
) -> None:
    name = "SIGSTOP of the refresher before a late tick"
    async with running(name, folder, best_database, measured, rate=RATE, ingesters=2, supervised=False) as system:
        first, second = system.ingesters
        assert await second.terminate() == 0
        await until(lambda: _has_refresher(best_database), "the first refreshes")
        second.start()
        await second.printed("(writer ready)")
        for victim in (first, second, first):
            victim.signal(signal.SIGSTOP)
            symbol = system.truth.symbols[0]
            late = _store_late(system, symbol)
            await system.recovered()
            (oldest, *_) = (await PatientRest(system.web_port).get(f"/candles/{symbol}", interval="1d"))["candles"]
            assert oldest["first_id"] == late
            victim.signal(signal.SIGCONT)
            await system.recovered()
        await system.verdict()


def _has_refresher(database: Database) -> bool:
    query = (
        "SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' AND granted"
        " AND application_name = 'tickwick refresher' AND datname = current_database()"
    )
    return len(database.execute(query)) == 1


def _store_late(system: System, symbol: str) -> int:
    """Store the trade before a symbol's first one, as an import does; answers its id."""
    trade_id = held(system.database)[symbol].first_id - 1
    tick = system.truth.tick(symbol, trade_id)
    with system.database.connect(system.database.writer) as conn, conn.transaction():
        conn.execute("SET LOCAL tickwick.quiet = 'on'")
        conn.execute(
            "INSERT INTO market.ticks (instrument_id, trade_id, time, price, size, buyer_is_maker)"
            " SELECT id, %s, %s, %s, %s, %s FROM market.instruments WHERE symbol = %s",
            (trade_id, from_micros(tick.time_us), tick.price, tick.size, tick.buyer_is_maker, symbol),
        )
    return trade_id


async def test_owner_is_stopped_in_the_middle_of_a_repair_a_peer_repairs_its_gaps(
    best_database: Database, measured: Measured, folder: Path
) -> None:
    name = "SIGSTOP of an owner in mid-repair"
    async with running(name, folder, best_database, measured, rate=RATE, ingesters=2, supervised=False) as system:
        first, second = system.ingesters
        for victim in (first, second, first):
            await system.order(rest_latency_seconds=2, skip=0.02)
            await until(lambda: _asked_for(best_database) == len(system.truth.symbols), "all repair")
            victim.signal(signal.SIGSTOP)
            await system.order(rest_latency_seconds=0, skip=0)
            await system.recovered()
            victim.signal(signal.SIGCONT)
            await system.recovered()
        assert best_database.execute("SELECT DISTINCT state FROM market.gaps") == [("filled",)]
        await system.verdict()


def _asked_for(database: Database) -> int:
    """The number of instruments that have a gap for which the exchange is being asked."""
    query = (
        "SELECT count(DISTINCT instrument_id) FROM market.gaps"
        " WHERE state = 'open' AND opened_at < clock_timestamp() - %s"
    )
    ((count,),) = database.execute(query, [ASKED_FOR])
    return int(count)
