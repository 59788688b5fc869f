"""Pages by id, while trades among them are still being fetched."""

from datetime import timedelta

from app.market.model import Instrument
from tests.databases import Database
from tests.integration.binance_rest import get
from tests.integration.rest import Rest, serving
from tests.integration.ticks import NOON, add_instrument, series, store


async def ids(rest: Rest, call: str, from_id: int) -> list[int]:
    rows = await get(rest, call, symbol="BTCUSDT", fromId=from_id)
    return [row["id" if call == "historicalTrades" else "a"] for row in rows]


def open_gap(database: Database, instrument: Instrument, from_id: int, to_id: int, seconds_ago: float = 0) -> None:
    database.execute(
        "INSERT INTO market.gaps (instrument_id, from_id, to_id, from_time, to_time, opened_at)"
        " VALUES (%s, %s, %s, %s, %s, now() - %s)",
        (instrument.id, from_id, to_id, NOON, NOON + timedelta(seconds=1), timedelta(seconds=seconds_ago)),
    )


async def test_page_ends_before_ids_that_may_be_fetched_any_moment(any_database: Database) -> None:
    instrument = await add_instrument(any_database)
    await store(any_database, [one for one in series(instrument, 20) if one.trade_id not in (7, 8, 15)])
    open_gap(any_database, instrument, 15, 15)
    open_gap(any_database, instrument, 7, 8)
    async with serving(any_database) as rest:
        for call in ("historicalTrades", "aggTrades"):
            assert await ids(rest, call, 1) == [1, 2, 3, 4, 5, 6]
            assert await ids(rest, call, 7) == await ids(rest, call, 8) == []
            assert await ids(rest, call, 9) == [9, 10, 11, 12, 13, 14]
            assert await ids(rest, call, 16) == [16, 17, 18, 19, 20]


async def test_page_goes_on_where_nothing_fills_the_gap(any_database: Database) -> None:
    instrument = await add_instrument(any_database)
    await store(any_database, [one for one in series(instrument, 20) if one.trade_id not in (7, 8, 15)])
    open_gap(any_database, instrument, 7, 8, seconds_ago=61)
    open_gap(any_database, instrument, 15, 15)
    any_database.execute(
        "UPDATE market.gaps SET state = 'unfillable', reason = 'void', closed_at = now() WHERE from_id = 15"
    )
    async with serving(any_database) as rest:
        assert await ids(rest, "historicalTrades", 5) == [5, 6, 9, 10, 11, 12, 13, 14, 16, 17, 18, 19, 20]
