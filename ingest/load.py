"""Files into the database: what `tickwick import` does."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec
from psycopg import AsyncConnection

import sql as queries
from app import db
from app.errors import OperatorError, TickwickError
from app.market.model import Feed, Instrument, InstrumentId, Tick
from ingest import archive, instruments
from ingest.archive import Layout, Rejected
from ingest.copy import TickTable
from ingest.instruments import Listing
from ingest.refresher import Refresher
from sql.engine import Engine

_QUERIES: Final = queries.load("ingest")


class FileReport(msgspec.Struct):
    """What became of a file's rows."""

    path: Path
    symbol: str
    new: int = 0
    duplicate: int = 0
    rejected: int = 0


class StrictRejection(TickwickError):
    """With `strict`, the first row that is not right; nothing of its file was stored."""


class Importer:
    """Stores files one after another, quietly, and sets the candles right at the end.

    `progress` is told how many bytes were read; `reject` each row that was not right.
    """

    def __init__(self, dsn: str, *, progress: Callable[[int], None], reject: Callable[[Path, Rejected], None]) -> None:
        self._dsn = dsn
        self._progress = progress
        self._reject = reject

    async def load(self, path: Path, symbol: str | None, layout: Layout | None, *, strict: bool) -> FileReport:
        """Store one file in batches, or with `strict` all or nothing. Raises OperatorError where it cannot be read."""
        layout = layout or archive.layout_of(path)
        feed = archive.feed_of(path, layout)
        source, ticker = _symbol_of(path, symbol)
        report = FileReport(path, f"{source}:{ticker}")
        async with self._connection() as conn, conn.transaction() if strict else nullcontext():
            instrument = await self._instrument(conn, path, layout, source, ticker, feed)
            await self._store(TickTable(conn), layout, instrument, report, strict=strict)
        return report

    async def settle(self, progress: Callable[[int], None] = lambda _: None) -> None:
        """Refresh the candles of all that was stored, tell live clients, close gaps that filled."""
        async with self._connection() as conn:
            cursor = await conn.execute(_QUERIES["engine"])
            row = await cursor.fetchone()
            refresher = Refresher(conn, Engine(row[0]) if row else Engine.POSTGRES)
            await refresher.settle(progress)
            await refresher.fill_gaps()

    async def _store(
        self, table: TickTable, layout: Layout, instrument: Instrument, report: FileReport, *, strict: bool
    ) -> None:
        for batch in archive.read(report.path, layout, instrument.id):
            for rejected in batch.rejected:
                self._reject(report.path, rejected)
                if strict:
                    raise StrictRejection(f"nothing of {report.path} was stored, because of --strict")
            written = await table.write(batch.ticks, quiet=True)
            report.new += written.new
            report.duplicate += written.duplicate
            report.rejected += len(batch.rejected) + written.refused
            self._progress(batch.bytes_read)

    async def _instrument(
        self, conn: AsyncConnection[Any], path: Path, layout: Layout, source: str, ticker: str, feed: Feed
    ) -> Instrument:
        known = await instruments.by_symbol(conn, [f"{source}:{ticker}"])
        listing = Listing() if known else _guess(path, layout, ticker)
        contiguous = feed in ("trade", "aggTrade") and layout != "plain"
        found = await instruments.ensure(
            conn, source, {ticker: listing}, feed, contiguous_ids=contiguous, active=bool(known and known[0].active)
        )
        return found[0]

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection[Any]]:
        async with await db.connect(self._dsn, "tickwick import") as conn:
            with db.translated():
                yield conn


def _symbol_of(path: Path, symbol: str | None) -> tuple[str, str]:
    if symbol is None:
        named = archive.describe(path)
        if named.ticker is None or named.source is None:
            raise OperatorError(f"the name of {path} does not tell its instrument: say which with --instrument")
        return named.source, named.ticker
    source, separator, ticker = symbol.upper().partition(":")
    if not (source and separator and ticker):
        raise OperatorError(f"--instrument is {symbol!r}, but must be SOURCE:TICKER, such as BINANCE:BTCUSDT")
    return source, ticker


def _guess(path: Path, layout: Layout, ticker: str) -> Listing:
    """What the file itself tells of a new instrument: the decimal places that its first prices use, and its assets."""
    first: Sequence[Tick] = next((b.ticks for b in archive.read(path, layout, InstrumentId(0)) if b.ticks), [])
    places = max((_places(tick.price) for tick in first), default=instruments.DEFAULT_PRICE_SCALE)
    return Listing(*_assets(ticker), places)


def _assets(ticker: str) -> tuple[str | None, str | None]:
    """Base and quote of a ticker that ends with a known quote."""
    for quote in QUOTES:
        base = ticker.removesuffix(quote).rstrip(SEPARATORS)
        if base and ticker.endswith(quote):
            return base, quote
    return None, None


SEPARATORS: Final = "-_/."
"""Between the assets of tickers that have any: BTC-USD, BTC/USD."""
QUOTES: Final = (
    "FDUSD",
    "TUSD",
    "USDT",
    "USDC",
    "BUSD",
    "BIDR",
    "BTC",
    "ETH",
    "BNB",
    "EUR",
    "USD",
    "TRY",
    "GBP",
    "BRL",
    "JPY",
)


def _places(price: Decimal) -> int:
    exponent = price.normalize().as_tuple().exponent
    return max(0, -int(exponent))
