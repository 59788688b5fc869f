"""Keeps what a feed follows in step with what this ingester owns, and learns of what was added while it runs."""

import asyncio
from collections.abc import Collection, Mapping
from typing import Final, Protocol

import structlog

import sql as queries
from app import db
from app.errors import DatabaseUnavailable
from app.market.model import Instrument, InstrumentId
from ingest.instruments import Listing
from ingest.sources.listing import NotListed
from ingest.venues import Listings

_QUERIES: Final = queries.load("ingest")
_log = structlog.get_logger()


class Receiver(Protocol):
    """A `Feed` or a `Poller`."""

    instruments: dict[str, InstrumentId]

    async def track(self, instruments: Mapping[str, InstrumentId]) -> None: ...
    async def untrack(self, tickers: Collection[str]) -> None: ...


class Tracking:
    """`follow` says what to follow from now on, and never waits; `run` carries it out, the newest word counting.

    How the venue lists what was added is learnt beside: what is followed never waits for the venue's REST. What it
    clearly does not list is tracked no longer; after any other answer, or none, that stays tracked, and the venue is
    asked again at the next word.
    """

    def __init__(self, dsn: str, receiver: Receiver, listings: Listings) -> None:
        self._dsn = dsn
        self._receiver = receiver
        self._listings = listings
        self._wanted: dict[str, Instrument] = {}
        self._changed = asyncio.Event()
        self._unlearnt = asyncio.Event()

    def follow(self, instruments: Collection[Instrument]) -> None:
        """These, and no others."""
        self._wanted = {instrument.ticker: instrument for instrument in instruments}
        self._changed.set()
        self._unlearnt.set()

    async def run(self) -> None:
        """Carry out until cancelled. Raises DatabaseRefused when the database does not let us note what was learnt."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._hand_over(), name="hand over")
                tasks.create_task(self._learn_all(), name="listings")
        except BaseExceptionGroup as failures:
            first = failures.exceptions[0]
            raise first from first.__cause__

    async def _hand_over(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            wanted, known = self._wanted, self._receiver.instruments
            await self._receiver.untrack(known.keys() - wanted.keys())
            await self._receiver.track({ticker: i.id for ticker, i in wanted.items() if ticker not in known})

    async def _learn_all(self) -> None:
        while True:
            await self._unlearnt.wait()
            self._unlearnt.clear()
            for instrument in [each for each in self._wanted.values() if each.base is None]:
                if instrument.ticker in self._wanted:  # still: a venue may be slow to answer
                    await self._learn(instrument)

    async def _learn(self, instrument: Instrument) -> None:
        """Note down how the venue lists an instrument; end the tracking of what it does not list."""
        values = {"id": instrument.id, "symbol": instrument.symbol}
        try:
            listing = (await self._listings([instrument.ticker])).get(instrument.ticker, Listing())
        except NotListed as error:
            _log.error("tracking ended", symbol=instrument.symbol, reason=str(error))
            await self._execute("untrack", values)
            return
        if listing.base is not None:
            await self._execute("describe_instrument", {**values, **listing._asdict()})

    async def _execute(self, query: str, values: Mapping[str, object]) -> None:
        try:
            async with await db.connect(self._dsn, "tickwick ingest") as conn:
                with db.translated():
                    await conn.execute(_QUERIES[query], values)
        except DatabaseUnavailable as error:
            _log.warning("listing not noted", reason=str(error))  # at the next change, or start
