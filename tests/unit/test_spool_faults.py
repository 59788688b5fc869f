"""The spool under faults: torn and damaged files, strangers in its folder, disks that are full or fail."""

import asyncio
import errno
import fcntl
import os
import random
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from app.errors import OperatorError
from ingest import spool as spool_module
from ingest.spool import Spool
from ingest.spool.segment import MAGIC, encode
from tests.unit.test_spool import BTC, ETH, LIMIT, SYMBOLS, drained, files, on_disk, opened, ticks

BATCHES = [ticks(1, 2), ticks(3), ticks(4, 5, 6)]
FIRST, SECOND, LAST = (encode(batch, SYMBOLS) for batch in BATCHES)
CONTENT = MAGIC + FIRST + SECOND + LAST


def left_behind(folder: Path, content: bytes, name: str = "0000000001.ticks") -> Path:
    path = folder / "slot-1" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


async def found_in(folder: Path) -> list[int]:
    """The ids that a new owner drains; what it counted before must be what it drained."""
    spool = opened(folder)
    counted = spool.ticks
    found = [tick.trade_id for tick in await drained(spool)]
    assert (counted, spool.ticks) == (len(found), 0)
    spool.close()
    return found


async def test_form_on_disk_is_what_it_was(tmp_path: Path) -> None:
    """A spool that an older version left behind must be read: this is its form, byte for byte."""
    body = b'[{"1":"BINANCE:BTCUSDT"},[[1,3,1600000000000003,"100.10","0.50",true]]]'
    assert body in SECOND
    assert SECOND[:12] == b"wait" + struct.pack("<II", len(body), 1)
    spool = opened(tmp_path)
    for batch in BATCHES:
        await spool.append(batch, SYMBOLS)
    spool.close()
    assert [path.read_bytes() for path in on_disk(tmp_path)] == [CONTENT]


async def test_end_torn_at_any_byte_loses_only_the_last_record(tmp_path: Path) -> None:
    whole = len(CONTENT) - len(LAST)
    for length in range(whole, len(CONTENT)):
        path = left_behind(tmp_path, CONTENT[:length])
        spool = opened(tmp_path)
        assert path.stat().st_size == whole
        assert (spool.ticks, spool.size, spool.damaged) == (3, whole, 0)
        await spool.append(ticks(7), SYMBOLS)
        assert await drained(spool) == ticks(1, 2, 3, 7)
        spool.close()
        assert files(tmp_path) == []


@pytest.mark.parametrize("length", range(len(MAGIC) + 1))
async def test_file_torn_before_its_first_record_is_deleted(tmp_path: Path, length: int) -> None:
    left_behind(tmp_path, MAGIC[:length])
    assert await found_in(tmp_path) == []
    assert files(tmp_path) == []


@pytest.mark.parametrize("kept", [0, len(MAGIC), len(MAGIC) + len(FIRST)])
async def test_end_of_zeros_after_a_power_cut_is_cut_off(tmp_path: Path, kept: int) -> None:
    left_behind(tmp_path, CONTENT[:kept] + bytes(5_000))
    assert await found_in(tmp_path) == ([1, 2] if kept > len(MAGIC) else [])
    assert files(tmp_path) == []


async def test_flipped_bit_anywhere_costs_no_more_than_what_is_behind_it(tmp_path: Path) -> None:
    """Every byte, a bit of it: the records before are drained, the file is kept aside; nothing wrong comes out."""
    starts = [0, len(MAGIC), len(MAGIC) + len(FIRST), len(MAGIC) + len(FIRST) + len(SECOND)]
    rng = random.Random(3)
    for at in range(len(CONTENT)):
        flipped = bytearray(CONTENT)
        flipped[at] ^= 1 << rng.randrange(8)
        left_behind(tmp_path, bytes(flipped))
        before = sum(start <= at for start in starts[1:])  # which record is hit, 0 for the file's beginning
        spool = opened(tmp_path)
        found = [tick.trade_id for tick in await drained(spool)]
        if before and at - starts[before] < 4:  # its mark: it waits all the same
            assert (found, spool.damaged) == ([1, 2, 3, 4, 5, 6], 0)
            spool.close()
        else:
            assert found == [[], [], [1, 2], [1, 2, 3]][before]
            assert spool.damaged == 1
            assert spool.size == len(CONTENT)
            spool.close()
            aside = tmp_path / "slot-1" / "0000000001.damaged"
            assert files(tmp_path) == ["slot-1", "slot-1/0000000001.damaged"]
            assert len(aside.read_bytes()) == len(CONTENT)
            aside.unlink()


async def test_damaged_file_does_not_keep_those_behind_it_from_being_drained(tmp_path: Path) -> None:
    left_behind(tmp_path, MAGIC + FIRST + b"garbage" * 100)
    left_behind(tmp_path, MAGIC + SECOND, "0000000002.ticks")
    assert await found_in(tmp_path) == [1, 2, 3]
    assert files(tmp_path) == ["slot-1", "slot-1/0000000001.damaged"]
    assert await found_in(tmp_path) == []


async def test_damaged_files_count_against_the_limit(tmp_path: Path) -> None:
    left_behind(tmp_path, os.urandom(10_000))
    spool = opened(tmp_path, limit=10_100)
    assert (spool.ticks, spool.size, spool.damaged) == (0, 10_000, 1)
    assert await spool.append(ticks(*range(10)), SYMBOLS) == 0
    spool.close()
    spool = opened(tmp_path)
    assert (spool.ticks, spool.size, spool.damaged) == (0, 10_000, 0)
    spool.close()


async def test_damage_that_comes_after_the_recovery_is_found_by_peek(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    for batch in BATCHES:
        await spool.append(batch, SYMBOLS)
    (path,) = on_disk(tmp_path)
    hurt = bytearray(CONTENT)
    hurt[len(MAGIC) + len(FIRST) + 30] ^= 1
    path.write_bytes(bytes(hurt))
    assert await spool.peek() == BATCHES[0]
    await spool.advance()
    assert await spool.peek() == []
    assert (spool.ticks, spool.damaged) == (0, 1)
    await spool.append(ticks(7), SYMBOLS)
    assert await drained(spool) == ticks(7)
    spool.close()
    assert files(tmp_path) == ["slot-1", "slot-1/0000000001.damaged"]


@pytest.mark.parametrize("gone", [Path.unlink, lambda path: os.truncate(path, len(MAGIC) + 5)])
async def test_file_that_vanishes_or_shrinks_under_us_is_counted_and_passed_over(
    tmp_path: Path, gone: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 200)
    spool = opened(tmp_path)
    for batch in BATCHES:
        await spool.append(batch, SYMBOLS)
    gone(on_disk(tmp_path)[0])
    assert await drained(spool) == BATCHES[1] + BATCHES[2]
    assert (spool.ticks, spool.damaged) == (0, 1)
    spool.close()


STRANGERS = {
    "0000000003.ticks": b"garbage",
    "0000000004.ticks": os.urandom(3_000),
    "0000000005.ticks": b"",
    "9999999999.ticks": b"tickwick spool 2\n" + FIRST,
    "12.ticks.tmp": FIRST,
    "notes.txt": b"hello",
    "-1.ticks": b"x",
    "\N{ARABIC-INDIC DIGIT ONE}.ticks": b"x",
    "x.ticks": MAGIC + FIRST,
    ".hidden": b"",
}


async def test_strangers_in_a_slot_are_left_alone_or_set_aside(tmp_path: Path) -> None:
    left_behind(tmp_path, CONTENT)
    for name, content in STRANGERS.items():
        left_behind(tmp_path, content, name)
    (tmp_path / "slot-1" / "0000000006.ticks").mkdir()
    (tmp_path / "slot-1" / "0000000007.ticks").symlink_to("notes.txt")
    spool = opened(tmp_path)
    assert await spool.append(ticks(7), SYMBOLS) == 1
    spool.close()
    assert await found_in(tmp_path) == [1, 2, 3, 4, 5, 6, 7]
    assert {path.name: path.read_bytes() for path in (tmp_path / "slot-1").iterdir() if path.is_file()} == {
        "0000000003.damaged": b"garbage",
        "0000000004.damaged": STRANGERS["0000000004.ticks"],
        "9999999999.damaged": STRANGERS["9999999999.ticks"],
        "0000000007.ticks": b"hello",
        **{name: content for name, content in STRANGERS.items() if not name[:10].isdigit()},
    }


async def test_strangers_beside_the_slots_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "slot-1").write_text("not a folder")
    (tmp_path / "slot-x").mkdir()
    (tmp_path / "slot-x" / "0000000001.ticks").write_bytes(CONTENT)
    (tmp_path / "slot-2").symlink_to("nowhere")
    spool = opened(tmp_path)
    await spool.append(ticks(1), SYMBOLS)
    assert "slot-3/0000000001.ticks" in files(tmp_path)
    assert await drained(spool) == ticks(1)
    spool.close()
    assert files(tmp_path) == ["slot-1", "slot-2", "slot-x", "slot-x/0000000001.ticks"]


def test_file_in_place_of_the_folder_is_an_operator_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "spool"):
        with pytest.raises(OperatorError, match=r"the spool cannot use the folder .*file.*; name another"):
            opened(folder)


@pytest.fixture
def not_root() -> Iterator[None]:
    """Root may write anywhere: be somebody else."""
    if os.geteuid() != 0:
        yield
        return
    try:
        os.setresuid(65534, 65534, 0)
    except PermissionError:
        pytest.skip("this root may not become somebody else")
    yield
    os.setresuid(0, 0, 0)


@pytest.fixture
def locked_folder() -> Iterator[Path]:
    """A folder that can be read and not written; pytest's own are out of others' reach."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o700)


@pytest.mark.usefixtures("not_root")
def test_folder_without_the_right_to_write_is_an_operator_error(locked_folder: Path) -> None:
    for folder in (locked_folder, locked_folder / "spool"):
        with pytest.raises(OperatorError, match="permission denied; name another"):
            opened(folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)):
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def mount(*arguments: str) -> bool:
    program = shutil.which("mount")
    return (
        bool(program) and subprocess.run([str(program), *arguments], capture_output=True, check=False).returncode == 0
    )


def test_read_only_disk_is_an_operator_error(small_disk: Path) -> None:
    (small_disk / "slot-1").mkdir()
    assert mount("-o", "remount,ro", str(small_disk))
    with pytest.raises(OperatorError, match="read-only file system; name another"):
        opened(small_disk)
    with pytest.raises(OperatorError, match="read-only file system; name another"):
        opened(small_disk / "spool")


async def test_full_disk_refuses_the_newest_and_takes_more_once_there_is_room(small_disk: Path) -> None:
    spool = opened(small_disk / "spool")
    given = ticks(*range(40_000))
    kept = await spool.append(given, SYMBOLS)
    assert 0 < kept < 40_000
    assert kept % spool_module.RECORD_TICKS == 0
    assert [path.stat().st_size for path in on_disk(small_disk)] == [spool.size]
    assert await spool.append(given[kept:], SYMBOLS) == 0
    spool.close()
    spool = opened(small_disk / "spool")
    assert spool.damaged == 0
    assert await drained(spool) == given[:kept]
    assert await spool.append(given[kept : kept + 5_000], SYMBOLS) == 5_000
    assert await drained(spool) == given[kept : kept + 5_000]
    spool.close()


LIMITED = """
import asyncio, resource, sys
from pathlib import Path
from tests.unit.test_spool import SYMBOLS, opened, ticks

async def main():
    spool = opened(Path(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
    kept = await spool.append(ticks(*range(10_000)), SYMBOLS)
    sizes = [path.stat().st_size for path in Path(sys.argv[1]).rglob("*.ticks")]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    more = await spool.append(ticks(*range(kept, 10_000)), SYMBOLS)
    print(kept, more, sizes == [spool.size] or sizes, spool.ticks)
    spool.close()

asyncio.run(main())
"""


def test_record_cut_short_by_the_system_leaves_nothing_behind(tmp_path: Path) -> None:
    """The second record does not fit: a part of it is written, then the system says no."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path], capture_output=True, text=True, check=True, timeout=60
    )
    kept = spool_module.RECORD_TICKS
    last = done.stdout.splitlines()[-1].split()
    assert (int(last[0]), int(last[1]), int(last[-1])) == (kept, 10_000 - kept, 10_000)
    assert asyncio.run(found_in(tmp_path)) == list(range(10_000))


class FailingDisk:
    """Lets calls through until `fails`; a write that fails has put half of its bytes on the disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails: dict[str, int] = {}
        self._pwrite, self._fsync, self._ftruncate, self._pread = os.pwrite, os.fsync, os.ftruncate, os.pread
        monkeypatch.setattr(os, "pwrite", self.pwrite)
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(os, "ftruncate", self.ftruncate)
        monkeypatch.setattr(os, "pread", self.pread)

    def _fail(self, call: str) -> None:
        if code := self.fails.get(call):
            raise OSError(code, os.strerror(code))

    def pwrite(self, fd: int, data: memoryview, at: int) -> int:
        if "pwrite" in self.fails:
            if len(data) == 1:
                self._fail("pwrite")
            return self._pwrite(fd, data[: len(data) // 2], at)
        return self._pwrite(fd, data, at)

    def fsync(self, fd: int) -> None:
        self._fail("fsync")
        self._fsync(fd)

    def ftruncate(self, fd: int, length: int) -> None:
        self._fail("ftruncate")
        self._ftruncate(fd, length)

    def pread(self, fd: int, length: int, at: int) -> bytes:
        self._fail("pread")
        return self._pread(fd, length, at)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FailingDisk:
    return FailingDisk(monkeypatch)


FAULTS = [
    {"pwrite": errno.ENOSPC},
    {"pwrite": errno.EDQUOT},
    {"pwrite": errno.EIO},
    {"fsync": errno.EIO},
    {"fsync": errno.ENOSPC},
    {"pwrite": errno.EIO, "ftruncate": errno.EIO},
    {"fsync": errno.EIO, "ftruncate": errno.EIO},
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
@pytest.mark.parametrize("already", [[], ticks(1, 2)], ids=["new file", "old file"])
async def test_failed_append_keeps_nothing_and_the_next_one_goes_on(
    tmp_path: Path, disk: FailingDisk, fault: dict[str, int], already: list[object]
) -> None:
    spool = opened(tmp_path)
    before = ticks(1, 2) if already else []
    await spool.append(before, SYMBOLS)
    content = [path.read_bytes() for path in on_disk(tmp_path)]
    size = spool.size
    disk.fails = fault
    assert await spool.append(ticks(3, 4, 5), SYMBOLS) == 0
    assert (spool.ticks, spool.size) == (len(before), size)
    if "ftruncate" not in fault:
        assert [path.read_bytes() for path in on_disk(tmp_path)] == content
    disk.fails = {}
    assert await spool.append(ticks(3), SYMBOLS) == 1
    assert await spool.peek() == (before or ticks(3))
    spool.close()
    found = await found_in(tmp_path)
    assert found == [tick.trade_id for tick in before] + [3]


async def test_new_file_is_answered_for_once_its_name_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    spool = opened(tmp_path)
    await spool.append(ticks(1), SYMBOLS)
    (path,) = on_disk(tmp_path)
    assert synced[-2:] == [path.stat().st_ino, path.parent.stat().st_ino]
    await spool.append(ticks(2), SYMBOLS)
    assert synced[-1] == path.stat().st_ino
    spool.close()


async def test_refusals_are_logged_once_until_ticks_are_kept_again(tmp_path: Path, disk: FailingDisk) -> None:
    spool = opened(tmp_path)
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            disk.fails = {"pwrite": errno.ENOSPC}
            for _ in range(3):
                assert await spool.append(ticks(1), SYMBOLS) == 0
            disk.fails = {}
            assert await spool.append(ticks(1), SYMBOLS) == 1
    assert [entry["event"] for entry in logs] == ["spool takes no more ticks"] * 2
    spool.close()


async def test_slot_given_up_while_it_is_taken_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner deletes the lock between our opening it and locking it: what we locked is no longer there."""
    owner = opened(tmp_path)
    lock = fcntl.flock

    def lock_too_late(fd: int, how: int) -> None:
        owner.close()
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", lock_too_late)
    spool = opened(tmp_path)
    assert await spool.append(ticks(1), SYMBOLS) == 1
    spool.close()
    assert await found_in(tmp_path) == [1]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system does not list open files")
async def test_spools_leave_no_file_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 200)
    busy = opened(tmp_path)  # each of the others tries its slot first
    await busy.append(ticks(1), SYMBOLS)
    for i in range(5):
        spool = opened(tmp_path)
        for j in range(5):
            await spool.append(ticks(i, j), SYMBOLS)
        await spool.peek()
        await spool.advance()
        spool.close()
        assert len(open_files(tmp_path)) == 2  # the lock and the segment of `busy`
    busy.close()
    assert open_files(tmp_path) == []


def open_files(folder: Path) -> list[str]:
    links = [str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    return [link for link in links if link.startswith(str(folder))]


async def test_failing_disk_keeps_the_records_that_were_written_before(
    tmp_path: Path, disk: FailingDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "RECORD_TICKS", 2)
    spool = opened(tmp_path)
    writes = 0

    def fail_the_third(fd: int, data: memoryview, at: int) -> int:
        nonlocal writes
        writes += 1
        if writes == 3:
            raise OSError(errno.ENOSPC, "full")
        return disk._pwrite(fd, data, at)

    monkeypatch.setattr(os, "pwrite", fail_the_third)
    assert await spool.append(ticks(*range(10)), SYMBOLS) == 4
    assert await drained(spool) == ticks(0, 1, 2, 3)
    spool.close()


async def test_disk_that_cannot_be_read_for_now_loses_nothing(tmp_path: Path, disk: FailingDisk) -> None:
    spool = opened(tmp_path)
    await spool.append(ticks(1), SYMBOLS)
    disk.fails = {"pread": errno.ENOMEM}
    with pytest.raises(OSError, match="memory"):
        await spool.peek()
    disk.fails = {}
    assert await drained(spool) == ticks(1)
    spool.close()


async def test_disk_that_cannot_be_read_any_more_is_set_aside(tmp_path: Path, disk: FailingDisk) -> None:
    spool = opened(tmp_path)
    await spool.append(ticks(1), SYMBOLS)
    disk.fails = {"pread": errno.EIO}
    assert await spool.peek() == []
    assert (spool.ticks, spool.damaged) == (0, 1)
    disk.fails = {}
    spool.close()
    assert files(tmp_path) == ["slot-1", "slot-1/0000000001.damaged"]


async def test_advance_on_a_failing_disk_drains_twice_rather_than_never(tmp_path: Path, disk: FailingDisk) -> None:
    spool = opened(tmp_path)
    await spool.append(ticks(1), SYMBOLS)
    await spool.append(ticks(2, instrument_id=ETH), SYMBOLS)
    assert await spool.peek() == ticks(1)
    disk.fails = {"pwrite": errno.EIO}
    await spool.advance()
    assert spool.ticks == 1
    assert await spool.peek() == ticks(2, instrument_id=ETH)
    disk.fails = {}
    spool.close()
    assert await found_in(tmp_path) in ([1, 2], [2])


def test_recovery_from_a_failing_disk_is_an_operator_error_that_gives_the_slot_up(
    tmp_path: Path, disk: FailingDisk
) -> None:
    left_behind(tmp_path, CONTENT)
    disk.fails = {"pread": errno.ENOMEM}
    with pytest.raises(OperatorError, match="cannot allocate memory"):
        opened(tmp_path)
    disk.fails = {}
    spool = Spool.open(tmp_path, LIMIT)
    assert spool.ticks == 6
    assert spool.symbols == {BTC: SYMBOLS[BTC]}
    spool.close()
