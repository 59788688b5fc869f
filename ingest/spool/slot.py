"""Slots: the subfolders of a spool's folder, each owned by one process at a time through a lock on a file in it.

The kernel gives a lock up with the process that held it, however that ended, so a slot can be taken over at once. The
lock is of use on a local disk; a network file system may not keep it.
"""

import errno
import fcntl
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from app.errors import OperatorError

SLOTS: Final = 1000
_NAME: Final = re.compile(r"slot-[0-9]+")
_SEGMENT: Final = re.compile(r"[0-9]+\.(ticks|damaged)")
_TRIES: Final = 3
"""How often to take a slot that its owner was giving up at the same moment."""

_log = structlog.get_logger()


class Slot:
    """A subfolder that is ours until `release`, or the end of the process."""

    def __init__(self, folder: Path, lock: int) -> None:
        self.folder = folder
        self._lock = lock

    @classmethod
    def take(cls, folder: Path) -> "Slot":
        """The first free slot that holds ticks, else the first free one. OSError where none can be made."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            reason = errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES
            raise OSError(reason, os.strerror(reason))
        slots = (path for path in folder.iterdir() if _NAME.fullmatch(path.name))
        for path in sorted(filter(_holds_ticks, slots), key=_number):
            if slot := cls._try(path):
                return slot
        for number in range(1, SLOTS + 1):
            if slot := cls._try(folder / f"slot-{number}"):
                return slot
        raise OperatorError(f"none of the {SLOTS} slots in {folder} can be had; name another folder")

    def release(self) -> None:
        """Give the slot up, and delete it if nothing is left in it."""
        with suppress(OSError):
            (self.folder / "lock").unlink()
            self.folder.rmdir()
        os.close(self._lock)

    @classmethod
    def _try(cls, path: Path) -> "Slot | None":
        for _ in range(_TRIES):
            try:
                path.mkdir(mode=0o700, exist_ok=True)
                lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except FileNotFoundError:
                continue
            except (FileExistsError, PermissionError, IsADirectoryError) as error:
                _log.warning("slot of the spool left out", slot=str(path), reason=str(error))
                return None
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_file(lock, path / "lock"):
                    return cls(path, lock)
            except BlockingIOError:
                os.close(lock)
                return None
            except OSError:
                os.close(lock)
                raise
            os.close(lock)
        return None


def numbered(folder: Path, suffix: str) -> list[Path]:
    """The regular files of a slot that are named as ours are, by their numbers."""
    ours = (path for path in folder.iterdir() if _SEGMENT.fullmatch(path.name) and path.suffix == suffix)
    return sorted((path for path in ours if path.is_file() and not path.is_symlink()), key=_number)


def next_number(folder: Path) -> int:
    """A number that no file of a slot has, nor any above it."""
    return 1 + max((_number(path) for path in folder.iterdir() if _SEGMENT.fullmatch(path.name)), default=0)


def _holds_ticks(slot: Path) -> bool:
    try:
        return bool(numbered(slot, ".ticks"))
    except OSError:
        return False


def _number(path: Path) -> int:
    return int(re.sub(r"[^0-9]", "", path.name))


def _is_file(fd: int, path: Path) -> bool:
    """Whether a path still names the file that is open: its last owner may have deleted it."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
