"""What a process tells of itself, and how much of the machine it holds; what it may be started with."""

import asyncio
import os
import time
from pathlib import Path
from typing import NamedTuple

import aiohttp

from tests.chaos.processes import LOOK_SECONDS, SHOWN, Process

PATIENCE_SECONDS = 30.0


class Burden(NamedTuple):
    """Resident memory in MiB, open file descriptors, and tasks of the event loop."""

    rss: float
    fds: int
    tasks: float


async def metrics(session: aiohttp.ClientSession, address: str) -> dict[str, float]:
    """All values of a process that serves metrics, without the prefix; none while it does not answer."""
    try:
        async with session.get(f"{address}/metrics") as response:
            lines = (await response.text()).splitlines()
    except (aiohttp.ClientError, TimeoutError):
        return {}
    values = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name.removeprefix("tickwick_"): float(value) for name, _, value in values}


async def burden(session: aiohttp.ClientSession, process: Process) -> Burden:
    """What a process that serves metrics holds; waits until it answers."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        assert process.metrics_at
        told = await metrics(session, process.metrics_at)
        if (tasks := told.get("tasks", told.get("ingest_tasks"))) is not None:
            return Burden(*process.holding(), tasks)
        assert time.monotonic() < deadline, f"{process.name} tells nothing of itself: {process.output[-SHOWN:]}"
        await asyncio.sleep(LOOK_SECONDS)


async def eased(session: aiohttp.ClientSession, process: Process, before: Burden, more: Burden) -> None:
    """Wait until a process holds what it held before, or not much more."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        now = await burden(session, process)
        if all(held <= then + spare for held, then, spare in zip(now, before, more, strict=True)):
            return
        assert time.monotonic() < deadline, f"{process.name} held {before}, and holds {now}"
        await asyncio.sleep(LOOK_SECONDS)


async def reaches(session: aiohttp.ClientSession, process: Process, name: str, least: float) -> None:
    """Wait until a metric of a process is as high."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    assert process.metrics_at
    while (told := (await metrics(session, process.metrics_at)).get(name, 0.0)) < least:
        assert process.alive, f"{process.name} has ended: {process.output[-SHOWN:]}"
        assert time.monotonic() < deadline, f"{name} of {process.name} is {told}, and not {least}"
        await asyncio.sleep(LOOK_SECONDS)


def faketime_library() -> Path | None:
    """The library that lets a process see another clock (Debian's package libfaketime), where it is installed."""
    folders = (Path("/usr/lib"), Path("/usr/local/lib"), Path("/opt/homebrew/lib"))
    found = (path for folder in folders for path in folder.glob("**/faketime/libfaketime*.1"))
    return next(iter(sorted(path for path in found if os.access(path, os.R_OK))), None)
