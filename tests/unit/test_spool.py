"""The spool while all goes well: exactness, order, limits, slots."""

import asyncio
import fcntl
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import OperatorError
from app.market.model import InstrumentId, Tick
from ingest import spool as spool_module
from ingest.spool import Spool
from ingest.spool.segment import MAGIC
from ingest.spool.slot import SLOTS

BTC, ETH = InstrumentId(1), InstrumentId(2)
SYMBOLS = {BTC: "BINANCE:BTCUSDT", ETH: "BINANCE:ETHUSDT"}
LIMIT = 1 << 30


def ticks(*trade_ids: int, instrument_id: InstrumentId = BTC) -> list[Tick]:
    return [
        Tick(instrument_id, i, 1_600_000_000_000_000 + i, Decimal("100.10"), Decimal("0.50"), True) for i in trade_ids
    ]


def opened(folder: Path, limit: int = LIMIT) -> Spool:
    return Spool.open(folder, limit, reserve_bytes=0)


async def drained(spool: Spool) -> list[Tick]:
    found: list[Tick] = []
    while head := await spool.peek():
        found += head
        await spool.advance()
    return found


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def on_disk(folder: Path) -> list[Path]:
    """The segments of a folder's only slot, the oldest first."""
    return sorted(folder.rglob("*.ticks"))


decimals = st.decimals() | st.decimals(allow_nan=False, allow_infinity=False, places=8)
any_ticks = st.builds(
    Tick,
    st.sampled_from([BTC, ETH]),
    st.integers(),
    st.integers(),
    decimals,
    decimals,
    st.none() | st.booleans(),
)


def digits(tick: Tick) -> tuple[object, ...]:
    """Equal where every digit is: two decimals of one value and of different places are equal, and no NaN is."""
    return (tick.instrument_id, tick.trade_id, tick.time_us, str(tick.price), str(tick.size), tick.buyer_is_maker)


@settings(max_examples=60, deadline=None)
@given(batches=st.lists(st.lists(any_ticks, max_size=20), max_size=6), reopened=st.booleans())
def test_ticks_that_were_drained_equal_what_was_appended_to_the_digit(
    batches: list[list[Tick]], reopened: bool
) -> None:
    async def through_the_spool() -> list[Tick]:
        with tempfile.TemporaryDirectory() as name:
            spool = opened(Path(name))
            for batch in batches:
                assert await spool.append(batch, SYMBOLS) == len(batch)
            if reopened:
                spool.close()
                spool = opened(Path(name))
            assert spool.ticks == sum(map(len, batches))
            found = await drained(spool)
            assert (spool.ticks, spool.size) == (0, 0)
            spool.close()
            assert files(Path(name)) == []
            return found

    appended = [tick for batch in batches for tick in batch]
    found = asyncio.run(through_the_spool())
    assert list(map(digits, found)) == list(map(digits, appended))


async def test_peek_without_advance_answers_the_same_record(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    await spool.append(ticks(1, 2), SYMBOLS)
    await spool.append(ticks(3), SYMBOLS)
    assert await spool.peek() == await spool.peek() == ticks(1, 2)
    await spool.advance()
    assert await spool.peek() == ticks(3)
    spool.close()


async def test_empty_spool_peeks_nothing_and_advance_does_nothing(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    assert await spool.append([], SYMBOLS) == 0
    assert await spool.peek() == []
    await spool.advance()
    await spool.sync()
    await spool.append(ticks(1), SYMBOLS)
    await spool.advance()  # nothing was peeked: nothing is forgotten
    assert await spool.peek() == ticks(1)
    spool.close()


async def test_append_between_peek_and_advance_keeps_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 400)
    spool = opened(tmp_path)
    found: list[Tick] = []
    for i in range(1, 60, 2):
        await spool.append(ticks(i, i + 1), SYMBOLS)
        if i % 3 == 0:
            found += await spool.peek()
            await spool.append(ticks(1000 + i, instrument_id=ETH), SYMBOLS)
            await spool.advance()
    found += await drained(spool)
    assert [tick.trade_id for tick in found if tick.instrument_id == BTC] == list(range(1, 61))
    assert [tick.trade_id for tick in found if tick.instrument_id == ETH] == [1000 + i for i in range(3, 60, 6)]
    spool.close()


async def test_large_append_becomes_records_and_files_of_bounded_size(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    many = ticks(*range(150_000))
    assert await spool.append(many, SYMBOLS) == len(many)
    sizes = [path.stat().st_size for path in on_disk(tmp_path)]
    assert max(sizes) <= spool_module.SEGMENT_BYTES
    assert spool.size == sum(sizes)
    assert len(await spool.peek()) == spool_module.RECORD_TICKS
    assert await drained(spool) == many
    spool.close()


async def test_restart_in_mid_drain_goes_on_after_the_last_advance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 600)
    spool = opened(tmp_path)
    for i in range(30):
        await spool.append(ticks(i), SYMBOLS)
    for i in range(30):
        assert spool.ticks == 30 - i
        assert await spool.peek() == ticks(i)
        spool.close()
        spool = opened(tmp_path)
        assert await spool.peek() == ticks(i)
        await spool.advance()
        await spool.sync()
    assert await spool.peek() == []
    spool.close()
    assert files(tmp_path) == []


async def test_what_was_appended_after_a_restart_comes_after_what_was_left(tmp_path: Path) -> None:
    for i in range(5):
        spool = opened(tmp_path)
        await spool.append(ticks(i), SYMBOLS)
        spool.close()
    spool = opened(tmp_path)
    assert await drained(spool) == ticks(0, 1, 2, 3, 4)
    spool.close()


async def test_symbols_name_the_instruments_that_still_wait(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    await spool.append(ticks(1, instrument_id=ETH), SYMBOLS)
    await spool.append(ticks(2), SYMBOLS)
    assert spool.symbols == {}
    await spool.peek()
    await spool.advance()
    spool.close()
    spool = opened(tmp_path)
    assert spool.symbols == {BTC: "BINANCE:BTCUSDT"}
    spool.close()


async def test_ticks_of_two_databases_in_one_slot_are_an_operator_error(tmp_path: Path) -> None:
    for symbols in (SYMBOLS, {BTC: "KRAKEN:BTC/USD"}):
        spool = opened(tmp_path)
        await spool.append(ticks(1), symbols)
        spool.close()
    with pytest.raises(OperatorError, match="instrument 1 is BINANCE:BTCUSDT and KRAKEN:BTC/USD; move the folder away"):
        opened(tmp_path)
    with (tmp_path / "slot-1" / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given up again


async def test_append_of_an_instrument_without_a_name_keeps_nothing(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    with pytest.raises(KeyError):
        await spool.append(ticks(1), {ETH: "BINANCE:ETHUSDT"})
    assert (spool.ticks, spool.size, await spool.peek()) == (0, 0, [])
    spool.close()


async def test_limit_reached_refuses_the_newest_and_draining_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "RECORD_TICKS", 10)
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 1_000)
    spool = opened(tmp_path, limit=5_000)
    given = ticks(*range(1_000))
    kept = await spool.append(given, SYMBOLS)
    assert 0 < kept < 1_000
    assert kept == spool.ticks
    assert 3_000 < spool.size <= 5_000
    assert await spool.append(given[kept:], SYMBOLS) == 0
    found: list[Tick] = []
    while spool.size > 3_000:
        found += await spool.peek()
        await spool.advance()
    more = await spool.append(given[kept:], SYMBOLS)
    assert more > 0
    assert spool.size <= 5_000
    found += await drained(spool)
    assert found == given[: kept + more]
    spool.close()


async def test_limit_of_zero_touches_no_disk(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path / "spool", 0)
    assert await spool.append(ticks(1), SYMBOLS) == 0
    assert (await spool.peek(), spool.ticks, spool.size, spool.symbols) == ([], 0, 0, {})
    await spool.advance()
    await spool.sync()
    spool.close()
    assert files(tmp_path) == []


async def test_reserve_of_free_space_is_not_touched(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    spool = Spool.open(tmp_path, LIMIT, reserve_bytes=disk.f_blocks * disk.f_frsize)
    assert await spool.append(ticks(1), SYMBOLS) == 0
    spool.close()
    assert files(tmp_path) == []


async def test_folders_and_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    spool = opened(tmp_path / "a" / "spool")
    await spool.append(ticks(1), SYMBOLS)
    spool.close()
    for path in (tmp_path / "a" / "spool", *(tmp_path / "a" / "spool").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


async def test_two_spools_of_a_folder_do_not_mix(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    await first.append(ticks(1), SYMBOLS)
    await second.append(ticks(2), SYMBOLS)
    assert (await drained(first), await drained(second)) == (ticks(1), ticks(2))
    first.close()
    second.close()
    assert files(tmp_path) == []


async def test_slot_that_holds_ticks_is_taken_before_an_empty_one(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    await second.append(ticks(2), SYMBOLS)
    second.close()
    first.close()
    spool = opened(tmp_path)
    assert await spool.peek() == ticks(2)
    spool.close()


def test_no_slot_left_is_an_operator_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SLOTS > 100
    monkeypatch.setattr("ingest.spool.slot.SLOTS", 2)
    taken = [opened(tmp_path), opened(tmp_path)]
    with pytest.raises(OperatorError, match="none of the 2 slots"):
        opened(tmp_path)
    for spool in taken:
        spool.close()


def test_slots_taken_and_given_up_at_once_yield_each_tick_once(tmp_path: Path) -> None:
    """Owners that come and go, each with its own event loop; some drain what they find, some leave more behind."""

    async def come_and_go(owner: int) -> list[int]:
        found: list[Tick] = []
        for turn in range(30):
            spool = opened(tmp_path)
            await spool.append(ticks(owner * 100 + turn), SYMBOLS)
            if turn % 3:
                found += await drained(spool)
            spool.close()
        return [tick.trade_id for tick in found]

    with ThreadPoolExecutor(6) as threads:
        found = [trade_id for ids in threads.map(asyncio.run, map(come_and_go, range(6))) for trade_id in ids]
    while files(tmp_path):
        spool = opened(tmp_path)
        found += [tick.trade_id for tick in asyncio.run(drained(spool))]
        spool.close()
    assert sorted(found) == [owner * 100 + turn for owner in range(6) for turn in range(30)]


APPENDER = """
import asyncio, structlog, sys
from pathlib import Path
from app.market.model import InstrumentId
from ingest.spool import Spool
from tests.unit.test_spool import SYMBOLS, ticks

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

async def main():
    spool = Spool.open(Path(sys.argv[1]), 1 << 30, reserve_bytes=0)
    start = int(sys.argv[2])
    while True:
        batch = ticks(*range(start, start + 6000))
        assert await spool.append(batch, SYMBOLS) == 6000
        start += 6000
        print(start, flush=True)

asyncio.run(main())
"""


class Appender:
    """A process that appends without end, and says after each append up to which id it has kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None

    def start(self, first_id: int = 0) -> None:
        command = [sys.executable, "-c", APPENDER, str(self._folder), str(first_id)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def acknowledged(self, appends: int) -> int:
        """Wait for some appends; the id that the last of them reached."""
        assert self._process
        assert self._process.stdout
        return [int(self._process.stdout.readline()) for _ in range(appends)][-1]

    def kill(self) -> int:
        """Kill it in the middle of what it does; the id that it reached at last, 0 where it said none since."""
        if not self._process:
            return 0
        with self._process as process:
            process.kill()
            assert process.stdout
            said = process.stdout.read()
        self._process = None
        return max((int(line) for line in said.splitlines(keepends=True) if line.endswith("\n")), default=0)


@pytest.fixture
def appender(tmp_path: Path) -> Iterator[Appender]:
    made = Appender(tmp_path)
    yield made
    made.kill()


async def test_kill_in_mid_append_keeps_all_that_was_acknowledged(tmp_path: Path, appender: Appender) -> None:
    """Killed again and again at moments of its own; nothing is drained in between."""
    reached = 0
    for turn in range(6):
        appender.start(reached)
        reached = max(appender.acknowledged(3 + turn), appender.kill())
        spool = opened(tmp_path)
        assert reached <= spool.ticks <= reached + 6_000
        reached = spool.ticks  # records of the append that was cut off may be there, too
        assert spool.damaged == 0
        spool.close()
    spool = opened(tmp_path)
    assert [tick.trade_id for tick in await drained(spool)] == list(range(reached))
    spool.close()
    assert files(tmp_path) == []


async def test_slot_of_a_killed_process_is_taken_over_with_its_ticks(tmp_path: Path, appender: Appender) -> None:
    appender.start()
    appender.acknowledged(2)
    beside = opened(tmp_path)
    assert beside.ticks == 0
    await beside.append(ticks(1, instrument_id=ETH), SYMBOLS)
    reached = max(12_000, appender.kill())
    heir = opened(tmp_path)
    assert [tick.trade_id for tick in await drained(heir)][:reached] == list(range(reached))
    assert await drained(beside) == ticks(1, instrument_id=ETH)
    heir.close()
    beside.close()
    assert files(tmp_path) == []


async def test_cancelled_append_is_whole_or_absent_and_the_next_call_waits_for_it(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    batch = ticks(*range(50_000))
    task = asyncio.create_task(spool.append(batch, SYMBOLS))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await spool.append(ticks(50_000), SYMBOLS) == 1
    found = await drained(spool)
    assert found in (batch + ticks(50_000), ticks(50_000))
    spool.close()


def test_files_begin_with_the_name_and_version_of_their_form() -> None:
    assert MAGIC == b"tickwick spool 1\n"
