"""The spool: ticks on disk, first in, first out, while the database is away.

Written here since no kept-up library of Python fits: persist-queue and queuelib check no sums and do not sync each
entry with their index, and an embedded database such as SQLite has no checksums on its pages and keeps freed space.

- What `append` has answered for is on the disk (fsync of each record, and of the folder for a new file): it survives
  a kill of the process and, as far as the disk keeps its word, a power cut.
- Ticks come back in the order in which they were appended. A record that was drained is marked in place, without
  fsync; after a crash it may be drained once more, and so may one that `append` did not come to answer for. The
  table's unique key takes each tick once.
- It never grows beyond its limit, nor into the last `reserve_bytes` of the disk: the newest ticks are refused.
"""

import asyncio
import os
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog

from app.errors import OperatorError
from app.market.model import InstrumentId, Tick
from ingest.spool.segment import MAGIC, Damaged, Segment, encode
from ingest.spool.slot import Slot, next_number, numbered

RECORD_TICKS: Final = 4096
"""Ticks in a record at most: what is read, drained and stored together."""
SEGMENT_BYTES: Final = 4 << 20
"""Where a new file is begun: space comes back in such pieces."""
RESERVE_BYTES: Final = 128 << 20
"""Left free for others: the database may well be on the same disk, and needs room for its log to come back."""

_log = structlog.get_logger()


class Spool:
    """A queue of ticks in a slot of a folder; one owner, whose calls do not overlap.

    `ticks` wait in it. `size` counts its bytes on disk, what was set aside as damaged among them; a file's space comes
    back when it is drained wholly. `symbols` names the instruments of the ticks that were left behind in the slot, so
    that they are never drained into another database. `damaged` counts the files found damaged since it was opened:
    each is drained up to the damage, and kept as `*.damaged` for a human to look at.

    All file work after `open` runs in a thread. A call that is cancelled ends there by itself, and the next one waits
    for it; so a cancelled `append` may have kept its ticks.
    """

    def __init__(self, slot: Slot | None, limit_bytes: int, reserve_bytes: int) -> None:
        self.ticks = 0
        self.size = 0
        self.damaged = 0
        self._symbols: dict[InstrumentId, str] = {}
        self._slot = slot
        self._limit = limit_bytes
        self._reserve = reserve_bytes
        self._segments: deque[Segment] = deque()
        self._tail: Segment | None = None
        self._head: list[Tick] = []
        self._number = 1
        self._refusing = False
        self._turn = threading.Lock()

    @classmethod
    def open(cls, folder: Path, limit_bytes: int, reserve_bytes: int = RESERVE_BYTES) -> "Spool":
        """Take a slot of the folder, one with ticks in it first, and recover what was left there; both are made 0700.

        A limit of 0 is no spool: it touches no disk and keeps nothing. Reads all that was left behind (some hundred
        MB/s). Raises OperatorError where the folder cannot be made, read or written, and where it holds ticks that
        were meant for several databases.
        """
        if limit_bytes <= 0:
            return cls(None, 0, 0)
        try:
            slot = Slot.take(folder)
            spool = cls(slot, limit_bytes, reserve_bytes)
            try:
                spool._recover(slot.folder)
            except BaseException:
                spool.close()
                raise
        except OSError as error:
            reason = error.strerror or str(error)
            raise OperatorError(f"the spool cannot use the folder {folder}: {reason.lower()}; name another") from error
        return spool

    @property
    def folder(self) -> Path | None:
        """Where the ticks wait; None where none can."""
        return self._slot.folder if self._slot else None

    @property
    def symbols(self) -> Mapping[InstrumentId, str]:
        return self._symbols

    async def append(self, ticks: Sequence[Tick], symbols: Mapping[InstrumentId, str]) -> int:
        """Put ticks behind those that wait, and answer how many were kept: the first ones, fewer than given where the
        limit is reached or the disk is full or fails. Nothing of the others remains; they stay the caller's.

        KeyError for a tick whose instrument `symbols` does not name.
        """
        return await asyncio.to_thread(self._append, ticks, symbols)

    async def peek(self) -> list[Tick]:
        """The oldest record's ticks, the same until `advance`; [] when nothing waits.

        Raises OSError where the disk cannot be read for a reason that may pass; nothing is lost then.
        """
        return await asyncio.to_thread(self._peek)

    async def advance(self) -> None:
        """Forget the record that `peek` gave: it is stored. A file that is drained wholly is deleted."""
        await asyncio.to_thread(self._advance)

    async def sync(self) -> None:
        """Make what `advance` forgot survive a power cut too; what was appended is on the disk already."""
        await asyncio.to_thread(self._sync)

    def close(self) -> None:
        """Give the slot up, with the ticks that wait in it; an empty one is deleted."""
        with self._turn:
            for segment in self._segments:
                segment.release()
            if self._slot:
                self._slot.release()
            self._slot = None

    def _recover(self, folder: Path) -> None:
        self._number = next_number(folder)
        self.size = sum(path.stat().st_size for path in numbered(folder, ".damaged"))
        for path in numbered(folder, ".ticks"):
            segment = Segment.recover(path, self._symbols)
            self.size += segment.size
            self.ticks += segment.ticks
            self.damaged += segment.damaged
            self._segments.append(segment)
            if segment.drained:
                self._retire(segment)
        if self.ticks:
            _log.warning("ticks found in the spool", folder=str(folder), ticks=self.ticks, bytes=self.size)

    def _append(self, ticks: Sequence[Tick], symbols: Mapping[InstrumentId, str]) -> int:
        kept = 0
        with self._turn:
            while self._slot and kept < len(ticks):
                record_ticks = ticks[kept : kept + RECORD_TICKS]
                if problem := self._keep(encode(record_ticks, symbols), len(record_ticks)):
                    self._refuse(problem)
                    return kept
                self._refusing = False
                kept += len(record_ticks)
        return kept

    def _keep(self, record: bytes, count: int) -> str | None:
        """Put a record on the disk, or say why it cannot be."""
        assert self._slot is not None
        length = len(MAGIC) + len(record)
        if self.size + length > self._limit:
            return "its limit is reached"
        try:
            if _free_bytes(self._slot.folder) - length < self._reserve:
                return "no more is free on its disk than the reserve"
            tail = self._tail_for(len(record))
            before = tail.size
            tail.append(record, count)
        except OSError as error:
            return str(error)
        if tail is not self._tail:
            if self._tail:
                self._tail.release()
            self._tail = tail
            self._segments.append(tail)
        self.size += tail.size - before
        self.ticks += count
        return None

    def _tail_for(self, length: int) -> Segment:
        """The segment that a record goes to: the last one, or a new one where that is full, or was left behind."""
        assert self._slot is not None
        if self._tail and self._tail.size + length <= SEGMENT_BYTES:
            return self._tail
        path = self._slot.folder / f"{self._number:010}.ticks"
        self._number += 1
        return Segment(path)

    def _refuse(self, reason: str) -> None:
        if not self._refusing:
            _log.error("spool takes no more ticks", reason=reason, ticks=self.ticks, bytes=self.size)
        self._refusing = True

    def _peek(self) -> list[Tick]:
        with self._turn:
            while self._segments and not self._head:
                segment = self._segments[0]
                try:
                    self._head = segment.peek()
                except Damaged as error:
                    _log.error("spool damaged", file=str(segment.path), ticks=segment.ticks, reason=str(error))
                    self.damaged += not segment.damaged
                    segment.damaged = True
                    self._retire(segment)
            return self._head

    def _advance(self) -> None:
        with self._turn:
            if self._head:
                segment = self._segments[0]
                segment.advance()
                self.ticks -= len(self._head)
                self._head = []
                if segment.drained:
                    self._retire(segment)

    def _sync(self) -> None:
        with self._turn:
            if self._segments:
                self._segments[0].sync()

    def _retire(self, segment: Segment) -> None:
        """Nothing more is drained from a segment; its ticks that are still there are lost."""
        self._segments.remove(segment)
        if segment is self._tail:
            self._tail = None
        self.ticks -= segment.ticks
        try:
            segment.discard()
        except OSError as error:
            _log.warning("file of the spool not deleted", file=str(segment.path), reason=str(error))
            return
        if not segment.damaged:
            self.size -= segment.size


def _free_bytes(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize
