"""What the stream reads of the past: the market's store over the pool."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial

from app.db import Pool, translated
from app.market import store
from app.market.intervals import Interval
from app.market.model import Candle, Instrument, Trade, day_start
from app.market.store import NEVER, TOP_ID, Place, Range
from app.stream.ranges import IdRange
from app.stream.topics import CandlesTopic


class StoredHistory:
    """Every method raises DatabaseUnavailable while the database is away."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def newest_candles(self, topic: CandlesTopic) -> list[Candle]:
        """The last two candles, ascending."""
        return await self._candles(topic, Range(store.ALWAYS, NEVER, 2, newest=True))

    async def candles_between(self, topic: CandlesTopic, start: datetime, end: datetime, limit: int) -> list[Candle]:
        """The oldest candles of a range, ascending."""
        return await self._candles(topic, Range(start, end, limit, newest=False))

    async def day(self, instrument: Instrument) -> tuple[list[Candle], Trade | None]:
        """The minute candles of the last 24 hours, the newest before them first, and the last trade; of one moment."""
        now = datetime.now(UTC)
        start = day_start(now)
        async with self._connection() as conn, conn.transaction():
            await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            last = await store.price_at(conn, instrument, NEVER)
            read = partial(store.candles, conn, instrument, Interval.M1, UTC, now=now, prove=False)
            before = await read(Range(store.ALWAYS, start, 60, newest=True))
            return [*before[-1:], *await read(Range(start, NEVER, 2_000, newest=False))], last

    async def newest_trades(self, instrument: Instrument, limit: int) -> list[Trade]:
        """The newest trades, ascending by id."""
        async with self._connection() as conn:
            found = await store.trades_before(conn, instrument, Place(NEVER, TOP_ID), store.ALWAYS, limit)
        return sorted(found, key=lambda trade: trade.trade_id)

    async def place_after_id(self, instrument: Instrument, after_id: int) -> Place | None:
        """A place before every trade above an id; None where there is none."""
        async with self._connection() as conn:
            return await store.place_after_id(conn, instrument, after_id)

    async def trades_after(self, instrument: Instrument, place: Place, after_id: int, limit: int) -> list[Trade]:
        """Trades after a place and above an id, ascending by time."""
        async with self._connection() as conn:
            return await store.trades_after(conn, instrument, place, NEVER, limit, after_id)

    async def filled_gaps(self, instrument: Instrument, among: Iterable[IdRange]) -> list[IdRange]:
        """The gaps that have been filled and touch any of these ranges."""
        ranges = [*among]
        async with self._connection() as conn:
            return [IdRange(*ids) for ids in await store.filled_gaps(conn, instrument, ranges)]

    async def _candles(self, topic: CandlesTopic, wanted: Range) -> list[Candle]:
        async with self._connection() as conn:
            series = topic.series
            return await store.candles(conn, topic.instrument, series.interval, series.zone, wanted, datetime.now(UTC))

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[store.Connection]:
        with translated():
            async with self._pool.connection() as conn:
                yield conn
        _heed_cancellation()


def _heed_cancellation() -> None:
    """Raise CancelledError where the running task was cancelled and does not know.

    The pool waits by `asyncio.wait_for`, which before Python 3.12 swallows a cancellation that comes in the moment in
    which a connection is free: the task would go on for ever, and whoever waits for its end too.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
