"""Everything at once, for minutes: `make soak SEED=n MINUTES=m`. A seed brings the same faults in the same order.

After each fault it waits until all is well again, and notes how long that took; at the end all is compared with the
truth. Exit code 1, with the seed, the fault, and the first difference, when something is wrong.
"""

import argparse
import asyncio
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from statistics import median
from typing import Any, Final

import structlog

from sql.engine import Engine
from tests.chaos.repertoire import Fault, planned
from tests.chaos.stage import Stage, staged
from tests.chaos.system import PROMISED_SECONDS, Measured
from tests.databases import Databases

INTERRUPTED: Final = 130
BETWEEN = 60
"""Trades that a client is told of between two faults."""


class Wrong(Exception):
    """Something that must not be, after a fault."""

    def __init__(self, seed: int, fault: Fault | None, error: BaseException) -> None:
        self.seed = seed
        self.fault = fault
        super().__init__(f"SEED={seed}: {'at the end' if fault is None else f'after {fault}'}: {error}")


async def soak(
    databases: Databases,
    engine: Engine,
    folder: Path,
    *,
    seed: int,
    seconds: float,
    say: Callable[[str], None] = print,
    faults: int = sys.maxsize,
    only: str = "",
) -> Measured:
    """Inflict faults for so many seconds, `faults` at most. Raises Wrong."""
    measured = Measured()
    fault: Fault | None = None
    async with staged(databases, engine, folder, seed) as stage:
        deadline = time.monotonic() + seconds
        try:
            for number, fault in enumerate((f for f in planned(seed) if re.search(only, f.name)), 1):
                if time.monotonic() > deadline or number > faults:
                    break
                say(f"{number:4} {time.strftime('%H:%M:%S')} {fault}")
                await _suffer(stage, fault, measured)
            fault = None
            await stage.set_clock(0.0)
            await stage.recovered()
            await asyncio.sleep(stage.ahead)
            await stage.verdict()
        except Exception as error:
            error.add_note(f"SEED={seed}, {fault or 'at the end'}")
            raise Wrong(seed, fault, error) from error
    return measured


async def _suffer(stage: Stage, fault: Fault, measured: Measured) -> None:
    await fault.inflict(stage, fault)
    measured.note(fault.name, await stage.recovered())
    await stage.flowing(BETWEEN)
    assert not stage.wrong, stage.wrong


def table(measured: Measured) -> str:
    """What recovered from what how soon, the slowest first."""
    lines = [f"{'recovered from':44}{'times':>6}{'median':>9}{'worst':>9}"]
    for name, seconds in sorted(measured.recoveries.items(), key=lambda item: -max(item[1])):
        late = "" if max(seconds) <= PROMISED_SECONDS else f"   more than {PROMISED_SECONDS:g} s"
        lines.append(f"{name:44}{len(seconds):6}{median(seconds):7.2f} s{max(seconds):7.2f} s{late}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="A randomised run of everything together.")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--only", default="", help="the faults whose name this regular expression finds")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if given.seed is None else given.seed
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    databases = Databases()
    engine = Engine.POSTGRES if databases.missing(Engine.TIMESCALEDB) else Engine.TIMESCALEDB
    folder = Path(tempfile.mkdtemp(prefix="tickwick-soak-"))
    print(f"SEED={seed} MINUTES={given.minutes:g} on {engine}; what the processes print is in {folder}", flush=True)
    soaking = soak(
        databases,
        engine,
        folder,
        seed=seed,
        seconds=60 * given.minutes,
        only=given.only,
        say=lambda text: print(text, flush=True),
    )
    try:
        measured = asyncio.run(_until_signalled(soaking))
    except Wrong as error:
        traceback.print_exception(error.__cause__)
        print(f"\n{error}")
        return 1
    except asyncio.CancelledError:
        shutil.rmtree(folder)
        return INTERRUPTED
    finally:
        databases.stop()
    print(table(measured))
    shutil.rmtree(folder)
    return 0


async def _until_signalled(soaking: Coroutine[Any, Any, Measured]) -> Measured:
    """Cancelled by SIGINT and by SIGTERM, so that everything is ended and removed."""
    task = asyncio.create_task(soaking)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


if __name__ == "__main__":
    sys.exit(main())
