"""The past of an instrument into the database, by hand: what `tickwick backfill` does."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final, TypeVar

import msgspec
from psycopg import AsyncConnection

import sql as queries
from app import db
from app.errors import OperatorError
from app.market.model import Instrument, InstrumentId, to_micros
from app.settings import Settings
from ingest import gaps, instruments
from ingest.answer import Untold
from ingest.backoff import Backoff
from ingest.gaps import gap_row
from ingest.history import HistoryClient, HistoryRefused, HistoryUnavailable
from ingest.refresher import Refresher
from ingest.repair import Repair, RepairCounters
from ingest.sequence import Hole
from ingest.venues import Venue, venue_for
from sql.engine import Engine

ATTEMPTS: Final = 6
"""How often in a row the venue may fail before the rest is left open."""
BUSY_SECONDS: Final = 0.5
SECOND_US: Final = 1_000_000

_QUERIES: Final = queries.load("gaps")
_INGEST_QUERIES: Final = queries.load("ingest")
T = TypeVar("T")


class Report(msgspec.Struct, frozen=True):
    """What became of the trades of a range. Their sum is how many the exchange numbered."""

    new: int = 0
    there: int = 0
    unfillable: int = 0
    missing: int = 0


async def backfill(
    settings: Settings,
    symbol: str,
    start: datetime,
    end: datetime,
    *,
    progress: Callable[[int, int], None],
    say: Callable[[str], None],
) -> Report:
    """Store what is missing of an instrument's trades from `start` up to, but without, `end`.

    What is missing is first recorded as open gaps, so that whatever ends this early, a second call or an ingester goes
    on where it stopped. `progress` hears how many ids are done, of how many; `say` what is being done. Raises
    OperatorError where the exchange does not know the instrument or serves no past.
    """
    source, _, ticker = symbol.partition(":")
    async with await db.connect(settings.dsn, "tickwick backfill") as conn:
        with db.translated():
            known = await instruments.by_symbol(conn, [symbol])
            if known and not known[0].contiguous_ids:
                raise OperatorError(f"{symbol} has ticks without contiguous ids, so what is missing cannot be told")
            venue = venue_for(settings, source, known[0].feed if known else settings.feed)
            assert venue.history, "venue_for answers with a history"
            async with HistoryClient(venue.history) as client:
                asking = _Asking(client, ticker, say)
                say("looking where the range begins and ends")
                ids = await asking.ids_between(to_micros(start), to_micros(end))
                if ids is None:
                    return Report()
                instrument = known[0] if known else await _added(conn, venue, source, ticker)
                wanted = Hole(instrument.id, *ids, to_micros(start), to_micros(end))
                report = await _fill(conn, asking, instrument, wanted, progress)
    say("refreshing candles")
    await _settle(settings.dsn)
    return report


async def fill_open(settings: Settings, symbol: str, say: Callable[[str], None]) -> Report:
    """Store what the exchange has of the open gaps of an instrument; its candles are left to a refresher.

    Raises OperatorError where the exchange serves no past.
    """
    async with await db.connect(settings.dsn, "tickwick backfill") as conn:
        with db.translated():
            (instrument,) = await instruments.by_symbol(conn, [symbol])
            wanted = await gaps.open_span(conn, instrument.id)
            if wanted is None:
                return Report()
            venue = venue_for(settings, instrument.source, instrument.feed)
            assert venue.history, "venue_for answers with a history"
            async with HistoryClient(venue.history) as client:
                asking = _Asking(client, instrument.ticker, say, attempts=2)
                repair = Repair(conn, client, RepairCounters())
                before = await _count(conn, wanted)
                await _repair(repair, conn, asking, instrument, wanted)
            after = await _count(conn, wanted)
            missing = wanted.to_id - wanted.from_id + 1 - sum(after)
            return Report(after[0] - before[0], before[0], after[1] - before[1], missing)


class _Asking:
    """A venue's past, asked for with patience: waits as long as the venue wants, gives up after `attempts` failures."""

    def __init__(
        self, client: HistoryClient, ticker: str, say: Callable[[str], None], attempts: int = ATTEMPTS
    ) -> None:
        self.client = client
        self._attempts = attempts
        self.say = say
        self._ticker = ticker
        self._failures = 0
        self._backoff = Backoff(first=1.0, ceiling=30.0)

    async def ids_between(self, start_us: int, end_us: int) -> tuple[int, int] | None:
        """The ids of the first and the last trade in a range of times; None where there is none."""
        try:
            first = await self._first_at(start_us)
            last = None if first is None else await self._last_before(start_us, end_us)
        except HistoryRefused as refusal:
            raise OperatorError(str(refusal)) from None
        return None if first is None or last is None or last < first else (first, last)

    async def wait(self, error: HistoryUnavailable | Untold) -> bool:
        """Wait until asking again makes sense; False when it failed too often in a row."""
        self._failures += 1
        if self._failures >= self._attempts:
            return False
        seconds = error.wait if isinstance(error, HistoryUnavailable) else self._backoff.next()
        self.say(f"waiting {seconds:.0f} s: {error}")
        await asyncio.sleep(seconds)
        return True

    def succeeded(self) -> None:
        self._failures = 0
        self._backoff.reset()

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                answer = await ask()
            except HistoryUnavailable as error:
                if not await self.wait(error):
                    raise
            else:
                self.succeeded()
                return answer

    async def _first_at(self, time_us: int) -> int | None:
        return await self._patiently(lambda: self.client.first_id_at(self._ticker, InstrumentId(0), time_us))

    async def _last_before(self, start_us: int, end_us: int) -> int | None:
        """The last trade before `end_us`, of which there is one since `start_us`."""
        beyond = await self._first_at(end_us)
        if beyond is not None:
            return beyond - 1
        # Nothing was traded since the end. The newest trade is looked for further and further back, then ever closer.
        back, none_since = SECOND_US, end_us
        while (last := await self._first_at(from_us := max(end_us - back, start_us))) is None:
            none_since = from_us
            back *= 8
        while none_since - from_us > SECOND_US:
            middle = (from_us + none_since) // 2
            if (found := await self._first_at(middle)) is None:
                none_since = middle
            else:
                from_us, last = middle, found
        while page := await self._page(last + 1, from_us):
            earlier = [tick for tick in page if tick.time_us < end_us]
            if earlier:
                last, from_us = earlier[-1].trade_id, earlier[-1].time_us
            if len(earlier) < len(page):
                break
        return last

    async def _page(self, from_id: int, from_us: int) -> Any:
        return await self._patiently(lambda: self.client.page(self._ticker, InstrumentId(0), from_id, from_us))


async def _added(conn: AsyncConnection[Any], venue: Venue, source: str, ticker: str) -> Instrument:
    listed = await venue.listings([ticker])
    feed, contiguous = venue.source.feed, venue.source.contiguous_ids
    (instrument,) = await instruments.ensure(
        conn, source, {ticker: listed[ticker]}, feed, contiguous_ids=contiguous, active=False
    )
    return instrument


async def _fill(
    conn: AsyncConnection[Any],
    asking: _Asking,
    instrument: Instrument,
    wanted: Hole,
    progress: Callable[[int, int], None],
) -> Report:
    asking.say("looking what is missing")
    total = wanted.to_id - wanted.from_id + 1
    there, unfillable = await _count(conn, wanted)
    missing, done = total - there - unfillable, 0
    progress(0, missing)

    def decided(ids: int) -> None:
        nonlocal done
        done += ids
        asking.succeeded()
        progress(min(done, missing), missing)

    if missing:
        await conn.execute(_QUERIES["open_missing"], gap_row(wanted))
        await _repair(Repair(conn, asking.client, RepairCounters(), decided), conn, asking, instrument, wanted)
    stored, unfillable = await _count(conn, wanted)
    return Report(stored - there, there, unfillable, total - stored - unfillable)


async def _repair(
    repair: Repair, conn: AsyncConnection[Any], asking: _Asking, instrument: Instrument, wanted: Hole
) -> None:
    """Give the open gaps of a range their turns until none is left, or the venue fails too often."""
    while found := await gaps.open_between(conn, wanted):
        asking.say(instrument.symbol)
        failure: HistoryUnavailable | Untold | None = None
        for gap in found:
            try:
                async with repair.alone(instrument.id) as ours:
                    if ours:
                        await repair.turn(instrument, gap)
            except Untold as error:
                failure = error
            except HistoryUnavailable as error:
                failure = error
                break
            if not ours:
                asking.say("waiting: another process is repairing this instrument")
                await asyncio.sleep(BUSY_SECONDS)
                break
        if failure and not await asking.wait(failure):
            return


async def _count(conn: AsyncConnection[Any], wanted: Hole) -> tuple[int, int]:
    """How many ids of a range are stored, and how many are known never to come."""
    cursor = await conn.execute(_QUERIES["count_ids"], gap_row(wanted))
    row = await cursor.fetchone()
    assert row is not None  # two counts
    return row[0], row[1]


async def _settle(dsn: str) -> None:
    """Refresh the candles, as far as no refresher does, and tell live clients."""
    async with await db.connect(dsn, "tickwick backfill") as conn:
        with db.translated():
            cursor = await conn.execute(_INGEST_QUERIES["engine"])
            row = await cursor.fetchone()
            await Refresher(conn, Engine(row[0]) if row else Engine.POSTGRES).settle()
