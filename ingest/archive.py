"""Reading trades from files: Binance's daily dumps and plain CSV, bare or in a ZIP. Pure reading, nothing is stored.

A row that is not exactly right is rejected with its line, field and reason, and the rest is read; a file that is no
archive at all raises OperatorError. Memory stays bounded whatever the file holds. Three layouts:

- `trades`: `id,price,qty,quoteQty,time,isBuyerMaker,isBestMatch`, with or without a header line.
- `aggTrades`: `aggId,price,qty,firstId,lastId,time,isBuyerMaker,isBestMatch`, with or without a header line.
- `plain`: a header line names the columns, in any order and letter case: `time` and `price`, and if they are there
  `size`, `trade_id`, and one of `buyer_is_maker` and `side` (the taker's: `buy` or `sell`); others are ignored.
  Without `trade_id` the id is the time in microseconds, as for quotes: rows of one time are then one tick and its
  duplicates. An empty or absent size is 0, an empty or absent side unknown.

A time is a number since 1970, its unit told by its magnitude: seconds below 10^11, milliseconds below 10^14,
microseconds from there on (any unit after March 1973 is told right). In `plain` it may also be ISO 8601 with an offset
from UTC. Numbers are plain digits with an optional point: no exponents, spaces or separators.
"""

import contextlib
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from app.errors import OperatorError
from app.market.model import Feed, InstrumentId, Tick
from ingest.archive_rows import BOM, FIRST_LINE, MAX_LINE, Layout, Rejected, Rows, plain_columns, sniff

__all__ = ["ArchiveName", "Batch", "Layout", "Rejected", "describe", "feed_of", "layout_of", "read", "size"]

BATCH_TICKS = 10_000
BLOCK_BYTES = 1 << 17
KEPT_BYTES = 4 * MAX_LINE + 1  # of a row that goes on beyond a block: enough to find it too long

FILE_NAME = re.compile(
    r"(?:(?P<source>[a-z]+)_)?(?P<ticker>[^\W_]+)-(?P<layout>trades|aggTrades)"
    r"-\d{4}-\d\d(?:-\d\d)?(?: ?\(\d+\))?\.(?:csv|zip)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class ArchiveName:
    """What a dump's file name tells; all None where it is not named as Binance names its dumps."""

    ticker: str | None
    layout: Layout | None
    source: str | None


@dataclass(frozen=True, slots=True)
class Batch:
    """Ticks in the order of the file, at most 10,000; `bytes_read` of all batches add up to the file's `size`."""

    ticks: list[Tick]
    rejected: list[Rejected]
    bytes_read: int


def describe(path: Path) -> ArchiveName:
    """What the file's name tells: `XRPETH-aggTrades-2019-10-11.csv`, `binance_BTCUSDT-trades-2021-01.zip`."""
    found = FILE_NAME.fullmatch(path.name)
    if not found:
        return ArchiveName(None, None, None)
    layout: Layout = "trades" if found["layout"].lower() == "trades" else "aggTrades"
    return ArchiveName(found["ticker"].upper(), layout, (found["source"] or "binance").upper())


def layout_of(path: Path) -> Layout:
    """The layout, told by the file's name, else by a ZIP's first file's name, else by the first row.

    Raises OperatorError where none of them tells, or where the file cannot be read.
    """
    if named := describe(path).layout:
        return named
    member, line = next(_first_lines(path))
    if found := describe(Path(member)).layout or sniff(line):
        return found
    raise OperatorError(
        f"{path} is in no known layout: its first row should be that of a Binance dump of trades or aggTrades, "
        "or a header that names at least time and price"
    )


def feed_of(path: Path, layout: Layout) -> Feed:
    """What the ids of the file's ticks count, hence the feed of an instrument made for it."""
    if layout != "plain":
        return "trade" if layout == "trades" else "aggTrade"
    columns = [plain_columns(line, _place(path, member)) for member, line in _first_lines(path)]
    return "trade" if all(any(column.role == "trade_id" for column in row) for row in columns) else "quote"


def size(path: Path) -> int:
    """The bytes to be read: of a ZIP, those of its files unpacked, as the ZIP claims."""
    with _clear_errors(path):
        if not _is_zip(path):
            return path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            return sum(member.file_size for member in _members(archive, path))


def read(path: Path, layout: Layout, instrument_id: InstrumentId) -> Iterator[Batch]:
    """All ticks of the file, and what was rejected, in order; of a ZIP all its CSV files, in the order of their names.

    Raises OperatorError where the file cannot be read or turns out to be damaged, then after the batches before that.
    """
    ticks: list[Tick] = []
    rejected: list[Rejected] = []
    used = 0
    with _clear_errors(path):
        for member, stream in _streams(path):
            rows = Rows(layout, instrument_id, member, _place(path, member))
            for block, length in _blocks(stream):
                rows.parse(block, ticks, rejected)
                used += length
                while len(ticks) >= BATCH_TICKS or len(rejected) >= BATCH_TICKS:
                    yield Batch(ticks[:BATCH_TICKS], rejected, used)
                    ticks, rejected, used = ticks[BATCH_TICKS:], [], 0
    if ticks or rejected or used:
        yield Batch(ticks, rejected, used)


# Bytes: files, ZIP members, blocks of whole lines.


def _streams(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """The CSV files of an archive with their names within a ZIP, opened one after the other."""
    if not _is_zip(path):
        with path.open("rb") as file:
            yield "", file
        return
    with zipfile.ZipFile(path) as archive:
        for member in _members(archive, path):
            with archive.open(member) as unpacked:
                yield member.filename, unpacked


def _first_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Of each CSV file its name within a ZIP and its first line that is not blank, or nothing if all are."""
    with _clear_errors(path):
        for member, stream in _streams(path):
            lines = (FIRST_LINE.search(block.removeprefix(BOM)) for block, _ in _blocks(stream))
            yield member, next((found[0].rstrip() for found in lines if found), "")


@contextlib.contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, UnicodeDecodeError) as error:
        raise OperatorError(f"{path} is not a ZIP file, or is damaged: {error}") from error
    except (OSError, NotImplementedError) as error:
        raise OperatorError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _place(path: Path, member: str) -> str:
    return f"{path} ({member})" if member else str(path)


def _is_zip(path: Path) -> bool:
    if path.suffix.lower() == ".zip":
        return True
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _members(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    """The CSV files in a ZIP, by name. Their names are only shown and compared, never used as paths."""
    found = [
        member
        for member in archive.infolist()
        if member.filename.lower().endswith(".csv") and not member.filename.startswith("__MACOSX/")
    ]
    if not found:
        raise OperatorError(f"{path} has no CSV file in it")
    if any(member.flag_bits & 1 for member in found):
        raise OperatorError(f"{path} is encrypted: unpack it first")
    tickers = {ticker for member in found if (ticker := describe(Path(member.filename)).ticker)}
    if len(tickers) > 1:
        raise OperatorError(f"{path} holds several instruments ({', '.join(sorted(tickers))}): unpack it first")
    return sorted(found, key=lambda member: member.filename)


def _blocks(stream: IO[bytes]) -> Iterator[tuple[str, int]]:
    """Whole lines, each ended by a line feed, and how many bytes were read for them.

    Bytes that are not UTF-8 become escapes such as `\\xff`, which no right row contains. Of a line that does not end
    within a block just enough is kept to find it too long.
    """
    rest = b""
    read = 0
    while data := stream.read(BLOCK_BYTES):
        read += len(data)
        end = data.rfind(b"\n") + 1
        if not end:
            rest = (rest + data)[:KEPT_BYTES]
            continue
        yield str(rest + data[:end], "utf-8", "backslashreplace"), read
        rest = data[end:][:KEPT_BYTES]
        read = 0
    if rest:
        yield str(rest, "utf-8", "backslashreplace") + "\n", read
