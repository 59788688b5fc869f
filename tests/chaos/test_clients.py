"""A thousand clients: a tenth stop reading, a tenth vanish without a word, and the others notice nothing.

Clients that stopped are told what they missed when they read on, or are closed with 4408; the server forgets them, and
those that vanished, with all that it held for them.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from tests.chaos.audience import PATIENCE, Audience
from tests.chaos.equipment import metrics
from tests.chaos.processes import LOOK_SECONDS, until
from tests.chaos.proxy import Proxy, proxying
from tests.chaos.sockets import lasting_port
from tests.chaos.system import Measured, System, running, start_serve
from tests.databases import Database

READING: Final = 800
PAUSED: Final = 50
"""They stop reading for a while, until trades were dropped for them."""
STALLED: Final = 50
"""They stop reading for ever."""
KILLED: Final = 50
"""Their process is killed: the kernel closes their sockets."""
SWALLOWED: Final = 50
"""The network swallows them: nothing tells the server that they are gone, but that they take nothing any more."""
SLOW: Final = 4408
OUTBOX_BYTES: Final = 65_536
SMALL_BUFFER: Final = 16_384
"""Bytes of a socket's buffer of those who are to stop reading, lest the kernel take all that the test sends them."""
PER_STALLED_BYTES: Final = 2 * OUTBOX_BYTES + 65_536 + 262_144
"""What a stalled client may cost: twice the outbox, a frame, and what the transport and the kernel's edge take."""
SLACK_MIB: Final = 48.0
"""What the allocator keeps once a thousand clients have been there."""
MORE_TASKS: Final = 10
MORE_FDS: Final = 10


class Web:
    """A server of its own for the crowd, with small outboxes; and what it tells of itself."""

    def __init__(self, system: System) -> None:
        self.port = lasting_port()
        options = "--outbox-bytes", str(OUTBOX_BYTES), "--stream-flush-ms", "250"
        self.process = start_serve(system.group, "serve, crowded", system.database.app, self.port, *options)
        self._system = system

    async def told(self) -> dict[str, float]:
        return await metrics(self._system.session, f"http://127.0.0.1:{self.port}")

    async def until(self, name: str, least: float = 0.0, most: float = float("inf")) -> dict[str, float]:
        """Wait until a metric is between two values, inclusive; answers all of that moment."""
        deadline = time.monotonic() + PATIENCE
        while not least <= (told := await self.told()).get(name, -1.0) <= most:
            assert time.monotonic() < deadline, f"{name} is {told.get(name)}, and not between {least} and {most}"
            await self._system.elapsed(5 * LOOK_SECONDS)
        return told


@asynccontextmanager
async def crowded(database: Database, measured: Measured, folder: Path) -> AsyncIterator[tuple[System, Web, Proxy]]:
    """A system with a server for the crowd, and a proxy in front of that."""
    async with running("1,000 clients", folder, database, measured, rate=30) as system:
        web = Web(system)
        await web.process.printed(r"serving (\S+)")
        await web.until("listener_live", least=1)
        async with proxying("127.0.0.1", web.port, SMALL_BUFFER) as proxy:
            yield system, web, proxy


@pytest.mark.timeout(300)
async def test_thousand_clients_a_tenth_stall_and_a_tenth_vanish_others_see_no_hole_and_nothing_is_left_behind(
    best_database: Database, measured: Measured, folder: Path
) -> None:
    async with crowded(best_database, measured, folder) as (system, web, proxy):
        port, symbols = web.port, system.truth.symbols
        crowd = partial(Audience, system.group, symbols=symbols)
        await (await crowd("warming", port, 50).comes()).leaves()
        before, holding = await web.until("stream_clients", most=0), web.process.holding()
        first, second, paused, stalled, killed, _, calm = audiences = [
            crowd("reading", port, READING // 2 - 50),
            crowd("reading too", port, READING // 2 - 50),
            crowd("paused", port, PAUSED, buffer=SMALL_BUFFER),
            crowd("stalled", port, STALLED, buffer=SMALL_BUFFER),
            crowd("killed", port, KILLED),
            crowd("swallowed", proxy.port, SWALLOWED),
            crowd("calm", port, 100),
        ]
        for audience in audiences:
            audience.process.start()
        for audience in audiences:
            await audience.joined()
        assert (await web.told())["stream_clients"] == 1_000
        await system.flowing(300)
        in_peace, full = await calm.leaves(), web.process.holding()
        calm = await crowd("calm still", port, 100).comes()

        for audience in (paused, stalled):
            audience.stops_reading()
        killed.process.kill()
        proxy.blackhole()
        await web.until("stream_dropped_trades_total", least=PAUSED * 100)
        grown = (web.process.holding().rss - full.rss) * 2**20
        paused.reads_on()
        await web.until("stream_slow_clients_total", least=STALLED)
        await web.until("stream_clients", most=1_000 - KILLED - STALLED - SWALLOWED)
        in_trouble = await calm.leaves()
        readers = [await first.leaves(), await second.leaves(), in_peace, in_trouble]
        resumed = await paused.leaves()
        stalled.process.kill()

        assert [reader.wrong for reader in readers] == [[]] * 4
        assert [(reader.gaps, reader.closed) for reader in readers] == [(0, {})] * 4
        assert [reader.connects for reader in readers] == [first.count, second.count, 100, 100]
        assert resumed.wrong == []
        assert resumed.gaps >= PAUSED
        assert set(resumed.closed) <= {SLOW}
        assert grown <= (PAUSED + STALLED) * PER_STALLED_BYTES + SLACK_MIB * 2**20, grown / 2**20
        print(
            f"latency of the healthy, p50 and p99 in ms: {in_peace.latencies}; with a tenth stalled and a tenth gone:"
        )
        print(f"{in_trouble.latencies}; {grown / 2**20:.1f} MiB more")

        await web.until("stream_clients", most=0)
        await web.until("tasks", most=before["tasks"] + MORE_TASKS)
        await until(lambda: web.process.holding().fds <= holding.fds + MORE_FDS, "sockets are closed", 10)
        now = web.process.holding()
        assert now.rss <= full.rss + SLACK_MIB, (holding, full, now)
        await system.recovered()
        await system.verdict()
