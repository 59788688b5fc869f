"""Real processes of the product: start, kill, restart; what they print, and how much of the machine they hold.

Linux alone: memory, descriptors and children are read from /proc.
"""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from app.embedded import Server

LOOK_SECONDS = 0.02
RESTART_SECONDS = 0.1
"""What systemd waits before it starts a service again (its default)."""
SHOWN = 4_000
_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


class Holding(NamedTuple):
    """What a process holds: resident memory in MiB, and open file descriptors."""

    rss: float
    fds: int


class Process:
    """A Python program, such as the product. It can be started again once it has ended; all its runs print to one file.

    `environ` are variables that its next runs find beside those that all processes do.
    """

    def __init__(self, name: str, module: str, arguments: Iterable[str], folder: Path) -> None:
        self.name = name
        self.environ: dict[str, str] = {}
        self.metrics_at: str | None = None
        """The address of its metrics, where it serves any."""
        self.supervised = False
        """Whether its group starts it again, whatever it ended of, until it is terminated."""
        self.restarts = 0
        self.code: int | None = None
        """The exit code of the last run that ended; minus the signal that ended it."""
        self._command = [sys.executable, "-m", module, *arguments]
        self._folder = folder / name
        self._folder.mkdir()
        self._file = folder / f"{name}.out"
        self._began = 0
        self._run: subprocess.Popen[bytes] | None = None
        self._wanted = False

    @property
    def pid(self) -> int:
        assert self._run is not None
        return self._run.pid

    @property
    def alive(self) -> bool:
        if self._run is not None and (code := self._run.poll()) is not None:
            self.code = code
            self._run = None
        return self._run is not None

    @property
    def due(self) -> bool:
        """Whether it has ended and should not have."""
        return self.supervised and self._wanted and not self.alive

    @property
    def output(self) -> str:
        """What all runs have printed."""
        return self._file.read_text(errors="replace") if self._file.exists() else ""

    def start(self) -> None:
        assert not self.alive
        own = {name: value for name, value in os.environ.items() if not name.startswith(("TICKWICK_", "PG"))}
        self._wanted = True
        self._began = self._file.stat().st_size if self._file.exists() else 0
        with self._file.open("ab") as file:
            self._run = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env={
                    **own,
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                    "COLUMNS": "200",
                    "XDG_STATE_HOME": str(self._folder.parent / "state"),  # where ticks are spooled
                    **self.environ,
                },
                start_new_session=True,
            )

    def kill(self) -> None:
        """End it by force, at once. A supervised one is started again."""
        if self.alive and self._run is not None:
            self._run.kill()
            self.code = self._run.wait()
            self._run = None

    def stop(self) -> None:
        """End it by force, for good."""
        self._wanted = False
        self.kill()

    async def terminate(self, seconds: float = 15) -> int:
        """Ask it to end, for good; its exit code."""
        self._wanted = False
        self.signal(signal.SIGTERM)
        await until(lambda: not self.alive, f"{self.name} has ended after SIGTERM", seconds)
        assert self.code is not None
        return self.code

    def signal(self, number: signal.Signals) -> None:
        assert self._run is not None
        self._run.send_signal(number)

    async def printed(self, pattern: str, seconds: float = 20) -> str:
        """Wait until its present run has printed what a pattern finds; the first group."""
        found: list[str] = []

        def look() -> bool:
            match = re.search(pattern, self._file.read_bytes()[self._began :].decode(errors="replace"))
            found.extend(match.groups() if match else ())
            assert match or self.alive, f"{self.name} has ended: {self.output[-SHOWN:]}"
            return match is not None

        await until(look, f"{self.name} prints {pattern}", seconds)
        return found[0]

    def holding(self) -> Holding:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return Holding(pages * _PAGE_MIB, len(os.listdir(f"/proc/{self.pid}/fd")))  # noqa: PTH208  # names suffice


class Processes:
    """The processes of one test."""

    def __init__(self, folder: Path) -> None:
        self.all: dict[str, Process] = {}
        self._folder = folder

    def add(self, name: str, *arguments: str, module: str = "app") -> Process:
        """A process that is not started yet."""
        process = self.all[name] = Process(name, module, arguments, self._folder)
        return process

    def start(self, name: str, *arguments: str) -> Process:
        process = self.add(name, *arguments)
        process.start()
        return process

    async def supervise(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for process in self.all.values():
                if process.due:
                    await asyncio.sleep(RESTART_SECONDS)
                    if process.due:
                        process.start()
                        process.restarts += 1

    def report(self) -> str:
        """The end of what each has printed."""
        return "\n".join(f"--- {p.name} (exit code {p.code})\n{p.output[-SHOWN:]}" for p in self.all.values())

    def stop(self) -> None:
        for process in self.all.values():
            process.stop()


@asynccontextmanager
async def processes(folder: Path) -> AsyncIterator[Processes]:
    """Processes that all are gone when the block ends; when it fails, what they printed is printed."""
    group = Processes(folder)
    supervising = asyncio.create_task(group.supervise())
    try:
        yield group
    except BaseException:
        print(group.report())
        raise
    finally:
        supervising.cancel()
        group.stop()
        with suppress(asyncio.CancelledError):
            await supervising


async def until(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Look again and again until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(LOOK_SECONDS)


def crash(server: Server) -> None:
    """Kill a PostgreSQL server with all its processes, as running out of memory might; nobody gets to say goodbye.

    What was committed is in the files by then, since commits are synchronous; `fsync` matters to a loss of power alone.
    """
    postmaster = int((server.data_dir / "cluster" / "postmaster.pid").read_text().split("\n", 1)[0])
    for pid in (postmaster, *_children(postmaster)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def revive(server: Server) -> None:
    """Start a server that has crashed; returns once it has recovered and takes connections."""
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)


def _children(parent: int) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError, IndexError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(folder.name))
    return found
