"""The faults of the soak: which there are, in what order a seed brings them, and how each is inflicted and ended."""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final

from tests.chaos.processes import Process, crash, revive, until
from tests.chaos.proxy import Proxy
from tests.chaos.stage import TICKERS, Stage

MOST_AHEAD: Final = 8.0
"""Seconds by which the exchange's clock is ahead at most: it must have been caught up with in the end."""


@dataclass(frozen=True)
class Fault:
    """One fault. All that is random of it is drawn when it is planned, so that the same seed plans the same."""

    name: str
    inflict: Callable[[Stage, "Fault"], Awaitable[None]]
    seconds: float
    """How long it lasts, where it is one that lasts."""
    which: int
    """Which of several it meets, and how much of what can be more or less."""

    def __str__(self) -> str:
        return f"{self.name} ({self.seconds:.1f} s, {self.which})"


def planned(seed: int) -> Iterator[Fault]:
    """The faults of a seed, without end. Each comes once before any comes again."""
    dice = random.Random(seed)
    while True:
        names = sorted(FAULTS)
        dice.shuffle(names)
        for name in names:
            yield Fault(name, FAULTS[name], round(dice.uniform(0.5, 6.0), 1), dice.randrange(1_000))


def _ingester(stage: Stage, fault: Fault) -> Process:
    return stage.ingesters[fault.which % len(stage.ingesters)]


def _web(stage: Stage, fault: Fault) -> Process:
    return stage.webs[fault.which % len(stage.webs)]


async def _up(process: Process) -> Process:
    """Wait until a process that the last fault ended is there again, and minds signals."""
    await until(lambda: process.alive, f"{process.name} runs")
    await process.printed("(writer ready|serving)")
    return process


Victim = Callable[[Stage, Fault], Process]
Way = Callable[[Stage], Proxy]


def _killed(victim: Victim) -> Callable[[Stage, Fault], Awaitable[None]]:
    async def inflict(stage: Stage, fault: Fault) -> None:
        victim(stage, fault).kill()

    return inflict


def _terminated(victim: Victim) -> Callable[[Stage, Fault], Awaitable[None]]:
    async def inflict(stage: Stage, fault: Fault) -> None:
        process = await _up(victim(stage, fault))
        code = await process.terminate()
        assert code == 0, f"{process.name} ended with {code} after SIGTERM"
        process.start()

    return inflict


def _stopped(victim: Victim) -> Callable[[Stage, Fault], Awaitable[None]]:
    async def inflict(stage: Stage, fault: Fault) -> None:
        process = await _up(victim(stage, fault))
        process.signal(signal.SIGSTOP)
        await asyncio.sleep(fault.seconds)
        process.signal(signal.SIGCONT)

    return inflict


async def _all_ingesters_killed(stage: Stage, fault: Fault) -> None:
    for ingester in stage.ingesters:
        ingester.kill()


async def _database_killed(stage: Stage, fault: Fault) -> None:
    crash(stage.server)
    await asyncio.sleep(fault.seconds)
    await revive(stage.server)


async def _database_stopped(stage: Stage, fault: Fault) -> None:
    await asyncio.to_thread(stage.server.stop)
    await asyncio.sleep(fault.seconds)
    await asyncio.to_thread(stage.server.start)


async def _ingester_killed_while_the_database_is_away(stage: Stage, fault: Fault) -> None:
    await asyncio.to_thread(stage.server.stop)
    await asyncio.sleep(fault.seconds)
    _ingester(stage, fault).kill()
    await asyncio.to_thread(stage.server.start)


async def _sessions_ended(stage: Stage, fault: Fault) -> None:
    names = "tickwick ingest", "tickwick serve", "tickwick listener", "tickwick repair", "tickwick refresher"
    for name in names:
        await asyncio.to_thread(stage.database.terminate, name)


def _cut(way: Way) -> Callable[[Stage, Fault], Awaitable[None]]:
    async def inflict(stage: Stage, fault: Fault) -> None:
        way(stage).cut()

    return inflict


def _reset(way: Way) -> Callable[[Stage, Fault], Awaitable[None]]:
    async def inflict(stage: Stage, fault: Fault) -> None:
        way(stage).reset()

    return inflict


def _truncated(way: Way) -> Callable[[Stage, Fault], Awaitable[None]]:
    async def inflict(stage: Stage, fault: Fault) -> None:
        way(stage).truncate(1 + 10 * fault.which)
        await asyncio.sleep(fault.seconds)
        way(stage).heal()

    return inflict


def _swallowed(way: Way) -> Callable[[Stage, Fault], Awaitable[None]]:
    async def inflict(stage: Stage, fault: Fault) -> None:
        way(stage).blackhole()
        await asyncio.sleep(fault.seconds)
        way(stage).heal()

    return inflict


def _refused(way: Way) -> Callable[[Stage, Fault], Awaitable[None]]:
    async def inflict(stage: Stage, fault: Fault) -> None:
        way(stage).refusing = True
        way(stage).reset()
        await asyncio.sleep(fault.seconds)
        way(stage).heal()

    return inflict


def _delayed(way: Way) -> Callable[[Stage, Fault], Awaitable[None]]:
    async def inflict(stage: Stage, fault: Fault) -> None:
        proxy = way(stage)
        proxy.up.delay = proxy.down.delay = fault.which / 1_000
        await asyncio.sleep(fault.seconds)
        proxy.heal()

    return inflict


def _answers_lost(way: Way) -> Callable[[Stage, Fault], Awaitable[None]]:
    async def inflict(stage: Stage, fault: Fault) -> None:
        proxy = way(stage)
        proxy.down.flowing.clear()
        await asyncio.sleep(fault.seconds)
        proxy.reset()
        proxy.heal()

    return inflict


def _ordered(name: str) -> Callable[[Stage, Fault], Awaitable[None]]:
    async def inflict(stage: Stage, fault: Fault) -> None:
        await stage.order(**{name: True})

    return inflict


def _ordered_for_a_while(name: str) -> Callable[[Stage, Fault], Awaitable[None]]:
    async def inflict(stage: Stage, fault: Fault) -> None:
        await stage.order(**{name: fault.seconds})
        await asyncio.sleep(fault.seconds)

    return inflict


def _misbehaving(name: str) -> Callable[[Stage, Fault], Awaitable[None]]:
    async def inflict(stage: Stage, fault: Fault) -> None:
        distance = {"reorder_distance": 1 + fault.which % 20} if name == "reorder" else {}
        await stage.misbehave(**{name: 0.001 + fault.which / 10_000}, **distance)
        await asyncio.sleep(fault.seconds)
        await stage.misbehave(**{name: 0.0})

    return inflict


async def _rest_away_over_a_drop(stage: Stage, fault: Fault) -> None:
    """What is missed cannot be fetched at first."""
    await stage.misbehave(rest_failure=1.0)
    await stage.order(drop=True)
    await asyncio.sleep(fault.seconds)
    await stage.misbehave(rest_failure=0.0)


async def _rest_slow_over_a_drop(stage: Stage, fault: Fault) -> None:
    await stage.misbehave(rest_latency_seconds=fault.which / 200)
    await stage.order(drop=True)
    await asyncio.sleep(fault.seconds)
    await stage.misbehave(rest_latency_seconds=0.0)


async def _exchange_killed(stage: Stage, fault: Fault) -> None:
    stage.exchange.kill()
    await asyncio.sleep(fault.seconds)
    await stage.restart_exchange()


async def _clock_set(stage: Stage, fault: Fault) -> None:
    await stage.set_clock(round(fault.which / 1_000 * MOST_AHEAD, 1))


async def _ids_left_out(stage: Stage, fault: Fault) -> None:
    symbol = stage.truth.symbols[fault.which % len(TICKERS)]
    await stage.leave_out(symbol, 1 + fault.which // 20)
    await asyncio.sleep(3)


async def _tracking_switched(stage: Stage, fault: Fault) -> None:
    symbol = stage.truth.symbols[fault.which % len(TICKERS)]
    await asyncio.to_thread(stage.database.execute, "SELECT market.untrack(%s)", [symbol])
    await asyncio.sleep(fault.seconds)
    await asyncio.to_thread(stage.database.execute, "SELECT market.track(%s)", [symbol])


async def _clients_stop_reading(stage: Stage, fault: Fault) -> None:
    """Long enough, at times, to be closed for it."""
    audience = stage.wayward[fault.which % len(stage.wayward)]
    audience.stops_reading()
    await asyncio.sleep(3 * fault.seconds)
    audience.reads_on()


async def _clients_vanish(stage: Stage, fault: Fault) -> None:
    audience = stage.wayward[fault.which % len(stage.wayward)]
    audience.process.kill()
    await audience.comes()


def _writers(stage: Stage) -> Proxy:
    return stage.writers


def _readers(stage: Stage) -> Proxy:
    return stage.readers


def _venue(stage: Stage) -> Proxy:
    return stage.venue


_NETWORK: Final = {
    "cut": _cut,
    "reset": _reset,
    "truncated": _truncated,
    "swallowed": _swallowed,
    "refused": _refused,
    "delayed": _delayed,
    "answers lost": _answers_lost,
}

FAULTS: Final[dict[str, Callable[[Stage, Fault], Awaitable[None]]]] = {
    "ingester killed": _killed(_ingester),
    "ingester terminated": _terminated(_ingester),
    "ingester stopped": _stopped(_ingester),
    "all ingesters killed": _all_ingesters_killed,
    "serve killed": _killed(_web),
    "serve terminated": _terminated(_web),
    "serve stopped": _stopped(_web),
    "PostgreSQL killed": _database_killed,
    "PostgreSQL stopped": _database_stopped,
    "ingester killed while PostgreSQL is away": _ingester_killed_while_the_database_is_away,
    "sessions ended by PostgreSQL": _sessions_ended,
    "clients stop reading": _clients_stop_reading,
    "clients vanish": _clients_vanish,
    "exchange killed": _exchange_killed,
    "exchange drops": _ordered("drop"),
    "exchange resets": _ordered("reset"),
    "exchange silent": _ordered_for_a_while("silence"),
    "exchange freezes": _ordered_for_a_while("freeze"),
    "exchange closes": _ordered_for_a_while("close"),
    "exchange skips": _misbehaving("skip"),
    "exchange repeats": _misbehaving("duplicate"),
    "exchange reorders": _misbehaving("reorder"),
    "exchange sends garbage": _misbehaving("garbage"),
    "exchange's REST away": _rest_away_over_a_drop,
    "exchange's REST slow": _rest_slow_over_a_drop,
    "exchange's clock set": _clock_set,
    "exchange leaves ids out": _ids_left_out,
    "tracking off and on": _tracking_switched,
    **{f"ingest to PostgreSQL {how}": make(_writers) for how, make in _NETWORK.items()},
    **{f"serve to PostgreSQL {how}": make(_readers) for how, make in _NETWORK.items()},
    **{f"ingest to exchange {how}": make(_venue) for how, make in _NETWORK.items()},
}
