"""The bad network itself: it does what it is told, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from tests.chaos.processes import until
from tests.chaos.proxy import Proxy, proxying

Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """In front of a server that sends back what it gets."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1_000):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with proxying("127.0.0.1", server.sockets[0].getsockname()[1]) as made:
        yield made
    server.close()
    await server.wait_closed()


@asynccontextmanager
async def client(proxy: Proxy) -> AsyncIterator[Client]:
    """A connection that stands from end to end."""
    async with dialled(proxy) as made:
        await answered(made, b"hello")
        yield made


@asynccontextmanager
async def dialled(proxy: Proxy) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


async def answered(client: Client, data: bytes) -> None:
    client[1].write(data)
    async with asyncio.timeout(10):
        assert await client[0].readexactly(len(data)) == data


async def test_proxy_passes_everything_both_ways(proxy: Proxy) -> None:
    async with client(proxy) as one, client(proxy) as other:
        await asyncio.gather(answered(one, b"1" * 300_000), answered(other, b"2" * 300_000))
    assert proxy.accepted == 2


async def test_proxy_delays_and_throttles_what_arrives_whole(proxy: Proxy) -> None:
    async with client(proxy) as one:
        clock = asyncio.get_running_loop().time
        began = clock()
        proxy.up.delay = proxy.down.delay = 0.1
        await answered(one, b"late")
        assert clock() - began >= 0.2
        proxy.heal()
        began = clock()
        proxy.up.rate = 100_000
        await answered(one, b"slow" * 5_000)
        assert clock() - began >= 0.03


async def test_proxy_that_cuts_ends_connections_in_order_and_takes_new_ones(proxy: Proxy) -> None:
    async with client(proxy) as one:
        proxy.cut()
        assert await one[0].read() == b""
    async with client(proxy):
        assert proxy.accepted == 2


async def test_proxy_that_resets_ends_connections_by_force(proxy: Proxy) -> None:
    async with client(proxy) as one:
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            await one[0].read()


async def test_proxy_that_truncates_passes_so_many_bytes_and_then_resets(proxy: Proxy) -> None:
    async with client(proxy) as one, client(proxy) as other:
        proxy.truncate(100)
        one[1].write(b"x" * 1_000)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await one[0].readexactly(101)
        await answered(other, b"fewer")
        proxy.heal()
        await answered(other, b"more" * 100)


async def test_proxy_that_swallows_keeps_what_is_underway_until_it_is_healed(proxy: Proxy) -> None:
    async with client(proxy) as one, asyncio.TaskGroup() as tasks:
        proxy.blackhole()
        one[1].write(b"later")
        async with dialled(proxy) as new:
            asking = tasks.create_task(answered(new, b"new"))
            await until(lambda: proxy.accepted == 2, "the new connection is accepted")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(one[0].read(1), 0.1)
            assert not asking.done()
            proxy.heal()
            assert await one[0].readexactly(5) == b"later"
            await asking


async def test_proxy_that_refuses_resets_new_connections_alone(proxy: Proxy) -> None:
    async with client(proxy) as one, dialled(proxy) as new:
        proxy.refusing = True
        async with dialled(proxy) as late:
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await late[0].readexactly(1)
        await answered(one, b"still here")
        await answered(new, b"me too")
