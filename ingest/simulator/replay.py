"""A recorded day as a market: the trades of a Binance dump file, played at a chosen speed."""

import bisect
import csv
import io
import re
import zipfile
from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation
from itertools import accumulate
from operator import attrgetter
from pathlib import Path

import msgspec

from app.errors import OperatorError
from app.market.model import InstrumentId, plain, tick_problem
from ingest.simulator.listing import Listing, listing
from ingest.simulator.tape import FOREVER, Trade

TRADE_COLUMNS = 7
AGGREGATE_COLUMNS = 8
FIRST_MICROSECOND_STAMP = 10**14
"""A time of this size or more counts microseconds: as milliseconds it would lie beyond the year 5000."""
BOOLEANS = {"true": True, "false": False, "1": True, "0": False}
UNLISTED = InstrumentId(0)


class Replay:
    """The trades of one file under their own ids, `speed` times as fast as they happened.

    Nothing has happened before `begin`; then the first trade happens at once. Times are shifted to the clock, so that
    the tape looks live, or with `keep_times` stay those of the file. The whole file is held in memory.
    """

    def __init__(self, path: Path, *, symbol: str | None = None, speed: float = 1.0, keep_times: bool = False) -> None:
        """OperatorError for a file that cannot be read, a row that is none, or a name that tells no symbol."""
        if speed <= 0:
            raise OperatorError(f"the speed of a replay must be above 0, not {speed:g}")
        self._trades = read_dump(path)
        self.listing: Listing = _listing(symbol or symbol_of(path), self._trades)
        self.pace = speed if keep_times else 1.0
        self._speed = speed
        self._keep_times = keep_times
        self._ids = [trade.id for trade in self._trades]
        self._file_times = list(accumulate((trade.time_us for trade in self._trades), max))
        self._start_us: int | None = None

    def __len__(self) -> int:
        return len(self._trades)

    def begin(self, clock_us: int) -> None:
        """Start the tape when the clock shows `clock_us`; a tape that runs goes on."""
        if self._start_us is None:
            self._start_us = clock_us

    def now_us(self, clock_us: int) -> int:
        if self._start_us is None:
            return self._file_times[0] - 1
        if self._keep_times:
            return self._file_times[0] + int((clock_us - self._start_us) * self._speed)
        return clock_us

    def trade(self, trade_id: int) -> Trade:
        place = bisect.bisect_left(self._ids, trade_id)
        if place == len(self._ids) or self._ids[place] != trade_id:
            raise LookupError(trade_id)
        return self._shifted(place, place + 1)[0]

    def trades(self, from_id: int, limit: int, until_us: int = FOREVER) -> list[Trade]:
        start = bisect.bisect_left(self._ids, from_id)
        return self._shifted(start, min(start + limit, self._played(until_us)))

    def before(self, trade_id: int, limit: int) -> list[Trade]:
        end = bisect.bisect_left(self._ids, trade_id)
        return self._shifted(max(0, end - limit), end)

    def latest(self, limit: int, until_us: int) -> list[Trade]:
        end = self._played(until_us)
        return self._shifted(max(0, end - limit), end)

    def id_at(self, time_us: int) -> int:
        place = bisect.bisect_left(self._file_times, time_us, key=self._shift)
        return self._ids[place] if place < len(self._ids) else self._ids[-1] + 1

    def time_of(self, from_id: int) -> int | None:
        place = bisect.bisect_left(self._ids, from_id)
        return self._shift(self._file_times[place]) if place < len(self._ids) else None

    def _played(self, until_us: int) -> int:
        """How many trades have happened by a time."""
        return bisect.bisect_right(self._file_times, until_us, key=self._shift)

    def _shift(self, file_us: int) -> int:
        """A time of the file as the tape tells it."""
        if self._start_us is None or self._keep_times:
            return file_us
        return self._start_us + int((file_us - self._file_times[0]) / self._speed)

    def _shifted(self, start: int, end: int) -> list[Trade]:
        return [
            Trade(trade.id, self._shift(time_us), trade.price, trade.size, trade.buyer_is_maker)
            for trade, time_us in zip(self._trades[start:end], self._file_times[start:end], strict=True)
        ]


def symbol_of(path: Path) -> str:
    """The symbol in a dump's name, such as BTCUSDT-trades-2021-01-08.csv."""
    if match := re.search(r"([A-Z0-9]{5,20})-(?:aggT|t)rades", path.name):
        return match[1]
    raise OperatorError(
        f"{path.name} does not name its symbol as BTCUSDT-trades-2021-01-08.csv does: name it with --symbol"
    )


def read_dump(path: Path) -> list[Trade]:
    """The trades of a daily dump (CSV, or ZIP of one CSV; trades or aggTrades), ascending by id, one for each id."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as member:
                trades = list(_rows(path, io.TextIOWrapper(member, "utf-8")))
        else:
            with path.open(encoding="utf-8", newline="") as file:
                trades = list(_rows(path, file))
    except (OSError, UnicodeDecodeError, IndexError, zipfile.BadZipFile) as error:
        raise OperatorError(f"{path} cannot be read as a dump: {error}") from error
    if not trades:
        raise OperatorError(f"{path} holds no trades")
    return sorted({trade.id: trade for trade in trades}.values(), key=attrgetter("id"))


def _rows(path: Path, lines: Iterable[str]) -> Iterator[Trade]:
    for number, row in enumerate(csv.reader(lines), start=1):
        if not row or (number == 1 and not row[0].isdigit()):
            continue
        try:
            yield _trade(row)
        except (ValueError, InvalidOperation) as error:
            reason = "price or qty is no number" if isinstance(error, InvalidOperation) else error
            raise OperatorError(f"{path}, line {number}: not a row of a trades dump ({reason})") from error


def _trade(row: list[str]) -> Trade:
    if len(row) not in {TRADE_COLUMNS, AGGREGATE_COLUMNS}:
        raise ValueError(f"{len(row)} columns")
    time, maker = row[-3], row[-2].lower()
    if maker not in BOOLEANS:
        raise ValueError(f"isBuyerMaker is {row[-2]!r}")
    stamp = int(time)
    trade = Trade(
        id=int(row[0]),
        time_us=stamp if stamp >= FIRST_MICROSECOND_STAMP else stamp * 1000,
        price=plain(Decimal(row[1])),
        size=plain(Decimal(row[2])),
        buyer_is_maker=BOOLEANS[maker],
    )
    if problem := tick_problem(trade.tick(UNLISTED)):
        raise ValueError(problem)
    return trade


def _listing(symbol: str, trades: list[Trade]) -> Listing:
    """The symbol's listing, with the tick and step size that the file's own digits need."""
    listed = listing(symbol)
    places = [max(_places(getattr(trade, field)) for trade in trades) for field in ("price", "size")]
    return msgspec.structs.replace(listed, tick_places=places[0], step_places=places[1], price=Decimal(trades[0].price))


def _places(digits: str) -> int:
    return len(digits.partition(".")[2].rstrip("0"))
