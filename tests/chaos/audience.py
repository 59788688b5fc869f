"""Crowds of clients, each a process of its own, so that it is the server whose time is measured."""

import signal
from collections.abc import Iterable

import msgspec

from tests.chaos.crowd import Report
from tests.chaos.processes import SHOWN, Processes

PATIENCE = 120.0


class Audience:
    """The clients of one process; it can be started again after it was killed."""

    def __init__(
        self, group: Processes, name: str, port: int, count: int, symbols: Iterable[str], *, buffer: int = 0
    ) -> None:
        """`buffer`: the size of each client's socket's buffers in bytes, where not the kernel's usual one."""
        self.count = count
        self.process = group.add(name, *map(str, (port, count, buffer, *symbols)), module="tests.chaos.crowd")

    async def comes(self) -> "Audience":
        """Start, and return when all have subscribed."""
        self.process.start()
        return await self.joined()

    async def joined(self) -> "Audience":
        await self.process.printed("(ready)", PATIENCE)
        return self

    def stops_reading(self) -> None:
        self.process.signal(signal.SIGUSR1)

    def reads_on(self) -> None:
        self.process.signal(signal.SIGUSR2)

    async def leaves(self) -> Report:
        """What they have seen, once they have gone."""
        assert await self.process.terminate() == 0, self.process.output[-SHOWN:]
        return msgspec.json.decode(self.process.output.rpartition("report ")[2], type=Report)
