import asyncio
import os
import signal
import socket

import pytest
from websockets.asyncio.client import connect

from app.errors import OperatorError
from ingest.simulator.exchange import Address, Exchange, run

WAIT = 10.0


async def test_exchange_on_a_taken_port_is_an_operator_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OperatorError, match=f"port {port} on 127.0.0.1 is in use"):
            async with Exchange(["BTCUSDT"]).serve(port=port):
                pass


def test_exchange_without_symbols_is_an_operator_error() -> None:
    with pytest.raises(OperatorError, match="nothing to trade"):
        Exchange([])


async def test_run_serves_until_cancelled() -> None:
    ready: asyncio.Future[Address] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(run(Exchange(["BTCUSDT"], rate=50), port=0, ready=ready.set_result))
    address = await asyncio.wait_for(ready, WAIT)
    async with connect(f"{address.ws}/ws/btcusdt@trade") as client:
        await asyncio.wait_for(client.recv(), WAIT)
        running.cancel()
        await asyncio.wait_for(client.wait_closed(), WAIT)
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_run_on_sigterm_closes_and_returns() -> None:
    running = asyncio.create_task(
        run(Exchange(["BTCUSDT"]), port=0, ready=lambda _: os.kill(os.getpid(), signal.SIGTERM))
    )
    await asyncio.wait_for(running, WAIT)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_run_with_a_feed_that_fails_raises_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = Exchange(["BTCUSDT"], rate=50)
    ready: asyncio.Future[Address] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(run(exchange, port=0, ready=ready.set_result))
    address = await asyncio.wait_for(ready, WAIT)

    def break_down(*_: object) -> None:
        raise ArithmeticError("broken")

    monkeypatch.setattr(exchange.tape("BTCUSDT"), "trades", break_down)
    async with connect(f"{address.ws}/ws/btcusdt@trade"):
        with pytest.raises(ArithmeticError, match="broken"):
            await asyncio.wait_for(running, WAIT)
