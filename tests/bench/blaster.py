"""An exchange that costs nothing: trade frames prepared beforehand, sent as fast as they are taken, or paced.

`python -m tests.bench.blaster TICKER COUNT RATE` prints its address; RATE 0 is as fast as possible. Paced frames carry
the microsecond at which they are sent as their time.
"""

import asyncio
import base64
import hashlib
import struct
import sys
import time

import uvloop

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
BURST_BYTES = 1 << 17


def text_frame(payload: bytes) -> bytes:
    """An unmasked websocket text frame."""
    size = len(payload)
    head = bytes([0x81, size]) if size < 126 else bytes([0x81, 126]) + struct.pack("!H", size)
    return head + payload


def trade(ticker: str, trade_id: int, time_us: int) -> bytes:
    price = f"{39432 + trade_id % 97}.{trade_id % 100:02}000000"
    maker = "true" if trade_id % 2 else "false"
    return text_frame(
        f'{{"stream":"{ticker.lower()}@trade","data":{{"e":"trade","E":{time_us // 1000},"s":"{ticker}","t":{trade_id},'
        f'"p":"{price}","q":"0.00{trade_id % 900 + 100}000","T":{time_us},"m":{maker},"M":true}}}}'.encode()
    )


async def main(ticker: str, count: int, per_second: int) -> None:
    prepared = (
        b"" if per_second else b"".join(trade(ticker, i, time.time_ns() // 1000 + i) for i in range(1, count + 1))
    )

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        key = next(
            line.split(b": ")[1] for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key")
        )
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest())  # noqa: S324  # what RFC 6455 asks for
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        await reader.read(1)  # the first byte of SUBSCRIBE
        writer.write(text_frame(b'{"result":null,"id":1}'))
        if per_second:
            await pace(writer)
        else:
            for start in range(0, len(prepared), BURST_BYTES):
                writer.write(prepared[start : start + BURST_BYTES])
                await writer.drain()
        await reader.read()

    async def pace(writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        started, sent = loop.time(), 0
        while sent < count:
            due = min(count, int((loop.time() - started) * per_second))
            for trade_id in range(sent + 1, due + 1):
                writer.write(trade(ticker, trade_id, time.time_ns() // 1000))
            sent = max(sent, due)
            await asyncio.sleep(0.001)

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(f"address ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
