"""SIGTERM and SIGINT as a request to stop, for as long as something runs that can."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any


@contextlib.contextmanager
def stop_signals(stop: Callable[[], object]) -> Iterator[None]:
    """Within the block, call `stop` on SIGTERM or SIGINT instead of what they would do."""
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
            stack.callback(loop.remove_signal_handler, number)
        yield


async def until_signal(work: Coroutine[Any, Any, None]) -> None:
    """Run until the work ends or a signal cancels it; errors pass through."""
    task = asyncio.ensure_future(work)
    with stop_signals(task.cancel), contextlib.suppress(asyncio.CancelledError):
        await task
