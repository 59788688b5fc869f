"""A segment of the spool: a file of records, each checked by itself.

The file starts with MAGIC. A record is a header and a body, and the body is JSON: the names of the record's instruments
and its ticks, in the form that NOTIFY carries, which keeps the digits of decimals and integers of any size. The header
has a checksum of its own, so that a record that was cut off (its end is missing) is told from one that was damaged.
"""

import errno
import os
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple
from zlib import crc32

import msgspec
import structlog

from app.errors import OperatorError
from app.market.model import InstrumentId, Tick

MAGIC: Final = b"tickwick spool 1\n"

# Mark, length of the body, ticks in it, its CRC-32, and the CRC-32 of those three. The mark is changed in place.
_HEADER: Final = struct.Struct("<4sIIII")
_SUMMED: Final = slice(4, 16)
_SUM: Final = struct.Struct("<I")
_WAITING: Final = b"wait"
_DRAINED: Final = b"gone"

_BLOCK: Final = 1 << 20
_LOST: Final = frozenset((errno.EIO, errno.ENOENT, errno.ESTALE))
"""What tells that the bytes are gone for good; any other error of reading may pass."""

_log = structlog.get_logger()


class _Body(msgspec.Struct, array_like=True):
    symbols: dict[InstrumentId, str]
    ticks: list[Tick]


class _Names(msgspec.Struct, array_like=True):
    symbols: dict[InstrumentId, str]
    ticks: msgspec.Raw


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(_Body)
_NAMES: Final = msgspec.json.Decoder(_Names)


class Damaged(Exception):
    """What was written cannot be read any more."""


class _Torn(Exception):
    """The file ends within a record: it was being written when the process or the machine died."""


class _Record(NamedTuple):
    waiting: bool
    ticks: int
    body: bytes
    end: int


def encode(ticks: Sequence[Tick], symbols: Mapping[InstrumentId, str]) -> bytes:
    """A record that waits to be drained. KeyError for a tick whose instrument has no name."""
    names = {instrument_id: symbols[instrument_id] for instrument_id in {tick.instrument_id for tick in ticks}}
    body = _ENCODER.encode((names, ticks))
    header = bytearray(_HEADER.pack(_WAITING, len(body), len(ticks), crc32(body), 0))
    _SUM.pack_into(header, _SUMMED.stop, crc32(header[_SUMMED]))
    return bytes(header) + body


class Segment:
    """One file. Records are added at its end and drained from its start; owned by one Spool.

    `ticks` wait in it; `size` counts its bytes. Where a record is damaged, that and all behind it is not drained; such
    a file is kept aside under another name once the records before the damage are drained.
    """

    def __init__(self, path: Path) -> None:
        """A segment without a file yet: `append` makes it."""
        self.path = path
        self.ticks = 0
        self.size = 0
        self.damaged = False
        self._fd: int | None = None
        self._exists = False
        self._end = 0
        self._at = len(MAGIC)
        self._head: _Record | None = None

    @classmethod
    def recover(cls, path: Path, symbols: dict[InstrumentId, str]) -> "Segment":
        """The segment that was left behind in a file; adds to `symbols` the instruments whose ticks wait in it.

        A torn end is cut off. OSError where the file cannot be read or changed; OperatorError where an instrument goes
        by another name than in `symbols`.
        """
        segment = cls(path)
        segment._exists = True
        try:
            segment._scan(symbols)
        finally:
            segment.release()
        return segment

    @property
    def drained(self) -> bool:
        return not self.ticks

    def append(self, record: bytes, count: int) -> None:
        """Add a record; on return it is on the disk. OSError where it is not: then nothing of it is kept."""
        start = self._end
        try:
            if not self._exists:
                self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                self._exists = True
            fd = self._file()
            _write(fd, record if start else MAGIC + record, start)
            os.fsync(fd)
            if not start:
                sync_folder(self.path.parent)
        except OSError:
            with suppress(OSError):  # what cannot be cut off is written over, or found torn or damaged
                if start:
                    os.ftruncate(self._file(), start)
                else:
                    self.discard()
            raise
        self._end = self.size = (start or len(MAGIC)) + len(record)
        self.ticks += count

    def peek(self) -> list[Tick]:
        """The ticks of the oldest record that waits. Damaged, or OSError for a failure that may pass."""
        try:
            self._head = record = self._waiting()
            return _DECODER.decode(record.body).ticks
        except (_Torn, msgspec.MsgspecError) as error:
            raise Damaged(str(error) or "the file was cut off") from error

    def advance(self) -> None:
        """Forget the record that `peek` gave. Where that cannot be noted on disk, it is drained again after a crash."""
        assert self._head is not None
        try:
            _write(self._file(), _DRAINED, self._at)
        except OSError as error:
            _log.warning("spool not marked as drained", file=str(self.path), reason=str(error))
        self._at = self._head.end
        self.ticks -= self._head.ticks
        self._head = None

    def sync(self) -> None:
        os.fsync(self._file())

    def release(self) -> None:
        """Close the file; it is opened again when it is needed."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def discard(self) -> None:
        """Delete the file, or put it aside as `*.damaged`; nothing happens to a file that is not ours."""
        self.release()
        if self.damaged:
            self.path.rename(self.path.with_suffix(".damaged"))
        elif self._exists:
            self.path.unlink(missing_ok=True)

    def _file(self) -> int:
        if self._fd is None:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        return self._fd

    def _scan(self, symbols: dict[InstrumentId, str]) -> None:
        fd = self._file()
        self._end = self.size = os.fstat(fd).st_size
        at = 0
        try:
            self._check_magic()
            at = len(MAGIC)
            while at < self._end:
                record = self._record_at(at)
                if record.waiting:
                    self._take_names(record, symbols)
                    self.ticks += record.ticks
                at = record.end
        except _Torn:
            _log.warning("torn end of the spool cut off", file=str(self.path), bytes=self.size - at)
            os.ftruncate(fd, at)
            self._end = self.size = at
        except Damaged as error:
            self._end = at
            self.damaged = True
            _log.error("spool damaged", file=str(self.path), bytes=self.size - at, reason=str(error))

    def _take_names(self, record: _Record, symbols: dict[InstrumentId, str]) -> None:
        try:
            names = _NAMES.decode(record.body).symbols
        except msgspec.MsgspecError as error:
            raise Damaged(str(error)) from error
        for instrument_id, name in names.items():
            if (known := symbols.setdefault(instrument_id, name)) != name:
                raise OperatorError(
                    f"the ticks in {self.path.parent} were meant for two databases: instrument {instrument_id} is "
                    f"{known} and {name}; move the folder away"
                )

    def _check_magic(self) -> None:
        start = os.pread(self._file(), len(MAGIC), 0)
        if start != MAGIC:
            if MAGIC.startswith(start) or self._only_zeros_from(0):
                raise _Torn
            raise Damaged("not a segment of the spool, or of another version")

    def _waiting(self) -> _Record:
        """The first record that waits; there is one."""
        while True:
            record = self._record_at(self._at)
            if record.waiting:
                return record
            self._at = record.end

    def _record_at(self, at: int) -> _Record:
        try:
            fd = self._file()
            header = os.pread(fd, _HEADER.size, at)
            if len(header) < _HEADER.size:
                raise _Torn
            mark, length, count, body_sum, header_sum = _HEADER.unpack(header)
            if crc32(header[_SUMMED]) != header_sum:
                if self._only_zeros_from(at):
                    raise _Torn  # what a power cut leaves of a file that was grown but not written
                raise Damaged("a header's checksum is wrong")
            if at + _HEADER.size + length > self._end:
                raise _Torn
            body = os.pread(fd, length, at + _HEADER.size)
        except OSError as error:
            if error.errno in _LOST:
                raise Damaged(str(error)) from error
            raise
        if len(body) < length or crc32(body) != body_sum:
            raise Damaged("a record's checksum is wrong")
        # A mark that is neither is a damaged one: better drained twice than never.
        return _Record(mark != _DRAINED, count, body, at + _HEADER.size + length)

    def _only_zeros_from(self, at: int) -> bool:
        while block := os.pread(self._file(), _BLOCK, at):
            if any(block):
                return False
            at += len(block)
        return True


def sync_folder(folder: Path) -> None:
    """Make what was created in a folder survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write(fd: int, data: bytes, at: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(fd, left, at)
        left = left[written:]
        at += written
