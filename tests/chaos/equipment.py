"""What a process is started with beyond its command line, and what it tells of itself meanwhile."""

import os
from pathlib import Path

import aiohttp

from tests.chaos.processes import Process
from tests.end_to_end.commands import free_port


def equip(process: Process, **environ: str) -> None:
    """Have its next runs find these variables in their environment, beside those of earlier calls."""
    process._command = ["env", *(f"{name}={value}" for name, value in environ.items()), *process._command]


def metered(process: Process) -> str:
    """Have its next runs, those of an ingester, serve metrics; answers where."""
    port = free_port()
    equip(process, TICKWICK_METRICS_PORT=str(port))
    return f"http://127.0.0.1:{port}"


async def metrics(session: aiohttp.ClientSession, address: str) -> dict[str, float]:
    """All values of a process that serves metrics, without the prefix; none while it does not answer."""
    try:
        async with session.get(f"{address}/metrics") as response:
            lines = (await response.text()).splitlines()
    except (aiohttp.ClientError, TimeoutError):
        return {}
    values = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name.removeprefix("tickwick_"): float(value) for name, _, value in values}


def faketime_library() -> Path | None:
    """The library that lets a process see another clock (Debian's package libfaketime), where it is installed."""
    folders = (Path("/usr/lib"), Path("/usr/local/lib"), Path("/opt/homebrew/lib"))
    found = (path for folder in folders for path in folder.glob("**/faketime/libfaketime*.1"))
    return next(iter(sorted(path for path in found if os.access(path, os.R_OK))), None)
