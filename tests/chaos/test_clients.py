"""A thousand clients, a tenth of which stop reading and a tenth of which vanish without a word: the others notice nothing.

Clients that stopped are told what they missed when they read on, or are closed with 4408; the server forgets them, and
those that vanished, with all that it held for them.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import pytest

from sql.engine import Engine
from tests.chaos.crowd import Report
from tests.chaos.equipment import equip, metrics
from tests.chaos.processes import LOOK_SECONDS, SHOWN, Process, Processes
from tests.chaos.proxy import Proxy, proxying
from tests.chaos.system import Measured, System, own_server, running
from tests.databases import Databases

READING: Final = 800
PAUSED: Final = 50
"""They stop reading for a while, until trades were dropped for them."""
STALLED: Final = 50
"""They stop reading for ever."""
KILLED: Final = 50
"""Their process is killed: the kernel closes their sockets."""
SWALLOWED: Final = 50
"""The network swallows them: nothing tells the server that they are gone, but that they answer no ping."""
PATIENCE: Final = 60.0
OUTBOX_BYTES: Final = 65_536
PER_STALLED_BYTES: Final = 2 * OUTBOX_BYTES + 65_536 + 262_144
"""What a stalled client may cost: twice the outbox, a frame, and what the transport and the kernel's edge take."""
SLACK_MIB: Final = 48.0
"""What the allocator keeps once a thousand clients have been there."""
MORE_TASKS: Final = 10
MORE_FDS: Final = 10


class Group(NamedTuple):
    """The clients of one process."""

    process: Process

    async def joined(self) -> "Group":
        await self.process.printed("(ready)", PATIENCE)
        return self

    def signal(self, number: signal.Signals) -> None:
        self.process.signal(number)

    async def leaves(self) -> Report:
        """What they have seen, once they have gone."""
        assert await self.process.terminate() == 0, self.process.output[-SHOWN:]
        return msgspec.json.decode(self.process.output.rpartition("report ")[2], type=Report)


def crowd(group: Processes, name: str, port: int, count: int, symbols: list[str]) -> Group:
    process = group.all[name] = Process(name, (), group._folder)
    process._command = [sys.executable, "-m", "tests.chaos.crowd", str(port), str(count), *symbols]
    process.start()
    return Group(process)


class Web:
    """What the server tells of itself."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._address = f"http://127.0.0.1:{system.web_port}"

    async def told(self) -> dict[str, float]:
        return await metrics(self._system.session, self._address)

    async def until(self, name: str, least: float = 0.0, most: float = float("inf")) -> dict[str, float]:
        """Wait until a metric is between two values, inclusive; answers all of that moment."""
        for _ in range(round(PATIENCE / LOOK_SECONDS / 5)):
            told = await self.told()
            if least <= told.get(name, -1.0) <= most:
                return told
            await self._system.elapsed(5 * LOOK_SECONDS)
        pytest.fail(f"{name} is {told.get(name)}, and not between {least} and {most}")


@asynccontextmanager
async def serving(
    databases: Databases, engine: Engine, measured: Measured, folder: Path
) -> AsyncIterator[tuple[System, Web, Proxy]]:
    """A system whose server has small outboxes, and a proxy in front of it."""
    async with (
        own_server(databases, engine) as (_, database),
        running("1,000 clients", folder, database, measured, rate=100, supervised=False) as system,
        proxying("127.0.0.1", system.web_port) as proxy,
    ):
        assert await system.web.terminate() == 0
        equip(system.web, TICKWICK_OUTBOX_BYTES=str(OUTBOX_BYTES), TICKWICK_STREAM_FLUSH_MS="50")
        system.web.start()
        await system.web.printed(r"serving (\S+)")
        await system.flowing()
        yield system, Web(system), proxy


async def test_thousand_clients_a_tenth_stall_and_a_tenth_vanish_others_see_no_hole_and_nothing_is_left_behind(
    databases: Databases, best_engine: Engine, measured: Measured, folder: Path
) -> None:
    async with serving(databases, best_engine, measured, folder) as (system, web, proxy):
        port, symbols = system.web_port, system.truth.symbols
        warm = await crowd(system.group, "warming", port, 50, symbols).joined()
        await warm.leaves()
        before, holding = await web.until("stream_clients", most=1), system.web.holding()
        calm = await crowd(system.group, "calm", port, 100, symbols).joined()
        groups = [
            crowd(system.group, name, at, count, symbols)
            for name, at, count in (
                ("reading1", port, READING // 2 - 50),
                ("reading2", port, READING // 2 - 50),
                ("paused", port, PAUSED),
                ("stalled", port, STALLED),
                ("killed", port, KILLED),
                ("swallowed", proxy.port, SWALLOWED),
            )
        ]
        one, other, paused, stalled, killed, swallowed = [await group.joined() for group in groups]
        assert (await web.told())["stream_clients"] == 1_001
        await system.flowing(600)
        full = system.web.holding()
        in_peace = await calm.leaves()
        calm = await crowd(system.group, "calm, later", port, 100, symbols).joined()

        for group in (paused, stalled):
            group.signal(signal.SIGUSR1)
        killed.process.kill()
        proxy.blackhole()
        await web.until("stream_dropped_trades_total", least=PAUSED * 100)
        await web.until("stream_clients", most=1_001 - KILLED)
        grown = (system.web.holding().rss - full.rss) * 2**20
        paused.signal(signal.SIGUSR2)
        await web.until("stream_slow_clients_total", least=STALLED)
        await system.recovered()
        in_trouble = await calm.leaves()
        readers = [await one.leaves(), await other.leaves(), in_peace, in_trouble]
        resumed = await paused.leaves()
        stalled.process.kill()

        assert [reader.wrong for reader in readers] == [[]] * 4
        assert [(reader.gaps, reader.closed) for reader in readers] == [(0, {})] * 4
        assert [reader.connects for reader in readers] == [READING // 2 - 50] * 2 + [100] * 2
        assert resumed.wrong == []
        assert resumed.gaps > 0
        assert set(resumed.closed) <= {4408}
        assert grown <= (PAUSED + STALLED) * PER_STALLED_BYTES + SLACK_MIB * 2**20, grown / 2**20
        print(
            f"latency of healthy clients: p50, p99 in ms: {in_peace.latencies}, with a tenth stalled and a tenth gone"
        )
        print(f"{in_trouble.latencies}; {grown / 2**20:.1f} MiB more")

        after = await web.until("stream_clients", most=1)
        await web.until("tasks", most=before["tasks"] + MORE_TASKS)
        now = system.web.holding()
        assert now.fds <= holding.fds + MORE_FDS, (holding, now)
        assert now.rss <= full.rss + SLACK_MIB, (holding, full, now, after)
        swallowed.process.kill()
        assert system.web.alive
        await system.verdict()
