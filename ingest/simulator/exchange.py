"""An exchange on localhost that speaks Binance and Coinbase: the demo's market and the tests' opponent.

One market, told in two ways on one port. Binance: websocket at `/ws`, `/ws/<stream>` and `/stream?streams=`, REST at
`/api/v3`. Coinbase Exchange: websocket at `/`, REST at `/products`. `/control` makes it misbehave. What is truly traded
is always readable from its tapes and over REST; `record` tells what was done wrong to the feed.
"""

import asyncio
import contextlib
import errno
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec
import structlog
from aiohttp import web

from app.binance.wire.errors import BinanceError
from app.binance.wire.streams import listed
from app.errors import OperatorError
from ingest.simulator.binance.rest import BinanceRest
from ingest.simulator.binance.session import BinanceSession
from ingest.simulator.coinbase.frames import match_frame, product_id
from ingest.simulator.coinbase.rest import CoinbaseRest
from ingest.simulator.coinbase.session import CoinbaseSession
from ingest.simulator.faults import CONTROL, faults
from ingest.simulator.floor import Floor
from ingest.simulator.market import SECOND, Market
from ingest.simulator.misbehaviour import Misbehaviour, Orders, Record
from ingest.simulator.replay import Replay
from ingest.simulator.session import Limits, Session, Sessions
from ingest.simulator.tape import Tape
from ingest.simulator.wire import Topic

log = structlog.get_logger()

LOG_SHOWN = 100


class Address(msgspec.Struct, frozen=True):
    """Where the exchange listens."""

    host: str
    port: int

    @property
    def http(self) -> str:
        return f"http://{self._authority}"

    @property
    def ws(self) -> str:
        return f"ws://{self._authority}"

    @property
    def _authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Exchange:
    """Markets of `symbols` at `rate` trades a second each, and replays; a replay replaces its symbol's market.

    A symbol's feed runs on the clock while somebody subscribes to it and starts at that moment, a replay with its first
    trade; REST serves everything traded until now. `clock` tells microseconds since 1970.
    """

    def __init__(
        self,
        symbols: Sequence[str] = (),
        rate: float = 5.0,
        seed: int = 1,
        misbehaviour: Misbehaviour | None = None,
        *,
        replays: Sequence[Replay] = (),
        limits: Limits | None = None,
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        """OperatorError for a symbol or a rate that cannot be, or when there is nothing to trade."""
        tapes: dict[str, Tape] = {symbol: Market(symbol, rate, seed) for symbol in symbols}
        tapes |= {replay.listing.symbol: replay for replay in replays}
        if not tapes:
            raise OperatorError("the simulated exchange has nothing to trade: name a symbol or a file to replay")
        self.record = Record()
        self._time = clock
        self._ahead_us = 0
        self._traded_until_us = 0
        self._sessions = Sessions(limits or Limits(), self.record.counters, self._subscription_changed)
        self._floors = {
            symbol: Floor(tape, self._sessions, self.record, self._traded_until, lambda: self.misbehaviour)
            for symbol, tape in tapes.items()
        }
        self._floor_of = {topic: floor for floor in self._floors.values() for topic in floor.topics}
        self._products = {product_id(floor.tape.listing): floor for floor in self._floors.values()}
        self.misbehave(misbehaviour or Misbehaviour())
        self._failure: asyncio.Future[None] | None = None

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple(self._floors)

    @property
    def connections(self) -> int:
        return len(self._sessions.open)

    def tape(self, symbol: str) -> Tape:
        """What is truly traded: without the void ids; LookupError for a symbol that is not."""
        return self._floors[symbol].tape

    def next_id(self, symbol: str) -> int:
        """The id that the symbol's next trade will have."""
        return self._floors[symbol].next_id

    def misbehave(self, misbehaviour: Misbehaviour) -> None:
        """Behave like this from the next trade on. OperatorError when it names a symbol that is not traded."""
        if unknown := misbehaviour.void.keys() - self._floors.keys():
            raise OperatorError(f"void names {', '.join(sorted(unknown))}, which the exchange does not trade")
        self.misbehaviour = misbehaviour
        for symbol, floor in self._floors.items():
            floor.tape.void = misbehaviour.void.get(symbol, ())

    def drop_connections(self) -> None:
        """Cut every connection at once, without a close frame."""
        self.record.counters["drop"] += 1
        self._sessions.drop()

    def reset_connections(self) -> None:
        """Cut every connection at once with RST: what was on its way to a client is lost."""
        self.record.counters["reset"] += 1
        self._sessions.reset()

    def freeze(self, seconds: float) -> None:
        """Stand still as a stopped process does: nothing is sent or answered, then what was missed is sent."""
        self.record.counters["freeze"] += 1
        self._sessions.freeze(seconds)

    def set_clock(self, seconds: float) -> None:
        """Set the clock ahead, or back where negative.

        Ids follow the time. Ahead: the trades of the time between are never sent, but REST has them. Back: nothing is
        traded, and no id comes twice, until the clock has caught up; what was traded stays so, also in REST.
        """
        self.record.counters["clock"] += 1
        self._traded_until()
        self._ahead_us += round(seconds * SECOND)
        if seconds > 0:
            for floor in self._floors.values():
                floor.jump()

    def go_silent(self, seconds: float) -> None:
        """Send nothing for a while, on connections that stay open; what is traded meanwhile is never sent."""
        self.record.counters["silence"] += 1
        self._sessions.silence(seconds)

    async def close_for(self, seconds: float) -> None:
        """Close as after 24 hours: notice, `notice_seconds`, close; then refuse connections (503) for `seconds`."""
        self.record.counters["close"] += 1
        await self._sessions.close(seconds, self.misbehaviour.notice_seconds, self._clock())

    @contextlib.asynccontextmanager
    async def serve(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Address]:
        """Serve within the block; port 0 takes a free one. OperatorError when the address cannot be had.

        A feed that fails is raised when the block ends; `failed` waits for it.
        """
        app = web.Application(middlewares=[faults(self._sessions, lambda: self.misbehaviour, self.record)])
        tapes = {symbol: floor.tape for symbol, floor in self._floors.items()}
        binance = BinanceRest(tapes, self._clock, self._traded_until, lambda: self.misbehaviour.weight_limit)
        app.add_routes(binance.routes())
        app.add_routes(CoinbaseRest(tapes, self._clock, self._traded_until).routes())
        app.add_routes(
            [
                web.get("/", self._coinbase),
                web.get("/ws", self._raw),
                web.get("/ws/{streams:.*}", self._raw),
                web.get("/stream", self._combined),
                web.get(CONTROL, self._control_state),
                web.post(CONTROL, self._control),
            ]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        feeds = [asyncio.create_task(floor.run(), name=f"exchange-{symbol}") for symbol, floor in self._floors.items()]
        try:
            await _listen(runner, host, port)
            address = Address(host, runner.addresses[0][1])
            log.info("exchange opened", address=address.http, symbols=len(self._floors))
            self._failure = asyncio.get_running_loop().create_future()
            for feed in feeds:
                feed.add_done_callback(self._feed_ended)
            yield address
        finally:
            for feed in feeds:
                feed.cancel()
            ended = await asyncio.gather(*feeds, return_exceptions=True)
            self._sessions.drop()
            self._sessions.thaw()
            await runner.cleanup()
            for error in ended:
                if isinstance(error, Exception):
                    raise error

    async def failed(self) -> None:
        """Return when a feed has failed."""
        if self._failure is not None:
            await asyncio.shield(self._failure)

    def _feed_ended(self, feed: asyncio.Task[None]) -> None:
        if self._failure is not None and not self._failure.done() and not feed.cancelled():
            log.error("exchange feed failed", feed=feed.get_name(), error=repr(feed.exception()))
            self._failure.set_result(None)

    def _clock(self) -> int:
        """Microseconds since 1970 on the exchange's clock."""
        return self._time() + self._ahead_us

    def _traded_until(self) -> int:
        """The latest that the clock has shown: what has been traded stays so when the clock is set back."""
        self._traded_until_us = max(self._traded_until_us, self._clock())
        return self._traded_until_us

    def _subscription_changed(self, topic: Topic) -> None:
        if floor := self._floor_of.get(topic):
            floor.subscription_changed()

    def _last_match(self, product: str) -> bytes | None:
        last = self._products[product].last()
        return match_frame("last_match", product, last) if last else None

    async def _raw(self, request: web.Request) -> web.StreamResponse:
        return await self._binance(request, request.match_info.get("streams", ""), wrapped=False)

    async def _combined(self, request: web.Request) -> web.StreamResponse:
        return await self._binance(request, request.query.get("streams", ""), wrapped=True)

    async def _binance(self, request: web.Request, names: str, *, wrapped: bool) -> web.StreamResponse:
        streams = listed(names)
        if len(streams) > self._sessions.limits.streams:
            return web.Response(status=400, text=f"at most {self._sessions.limits.streams} streams on a connection")
        try:
            session = BinanceSession(self._sessions, request, wrapped=wrapped)
        except BinanceError as error:
            return _json(error.body, error.status)
        return await self._serve(session, [session.topic(stream) for stream in streams])

    async def _coinbase(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(CoinbaseSession(self._sessions, request, self._products, self._last_match), [])

    async def _serve(self, session: Session, topics: Sequence[Topic]) -> web.StreamResponse:
        if self._sessions.closed:
            return web.Response(status=503)
        life, notice = self.misbehaviour.max_connection_seconds, self.misbehaviour.notice_seconds
        return await session.serve(topics, life=life, notice=notice, clock=self._clock)

    async def _control_state(self, request: web.Request) -> web.Response:
        return _json(
            {
                "misbehaviour": self.misbehaviour,
                "counters": self.record.counters,
                "deeds": list(self.record.deeds)[-LOG_SHOWN:],
                "connections": self.connections,
                "next_ids": {symbol: self.next_id(symbol) for symbol in self._floors},
                "clock_us": self._clock(),
            }
        )

    async def _control(self, request: web.Request) -> web.Response:
        """Change the fields of the misbehaviour that the body names, and carry out its orders."""
        try:
            body = msgspec.json.decode(await request.read(), type=dict[str, object])
            orders = msgspec.convert(
                {name: body.pop(name) for name in Orders.__struct_fields__ if name in body}, Orders
            )
            misbehaviour = msgspec.convert(msgspec.structs.asdict(self.misbehaviour) | body, Misbehaviour)
            self.misbehave(misbehaviour)
        except (msgspec.DecodeError, OperatorError) as error:
            return _json({"code": -1130, "msg": str(error)}, status=400)
        if orders.drop:
            self.drop_connections()
        if orders.reset:
            self.reset_connections()
        if orders.silence is not None:
            self.go_silent(orders.silence)
        if orders.freeze is not None:
            self.freeze(orders.freeze)
        if orders.clock is not None:
            self.set_clock(orders.clock)
        if orders.close is not None:
            await self.close_for(orders.close)
        return await self._control_state(request)


async def run(
    exchange: Exchange, host: str = "127.0.0.1", port: int = 9443, ready: Callable[[Address], None] | None = None
) -> None:
    """Serve until cancelled, or until SIGTERM or SIGINT; `ready` is called once the exchange listens."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # Windows has no signal handlers on its loop
            loop.add_signal_handler(number, stop.set)
    try:
        async with exchange.serve(host, port) as address:
            if ready is not None:
                ready(address)
            waits = [asyncio.create_task(stop.wait()), asyncio.create_task(exchange.failed())]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(number)


async def _listen(runner: web.AppRunner, host: str, port: int) -> None:
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OperatorError(f"port {port} on {host} is in use: choose another with --port") from error
        raise OperatorError(f"the exchange cannot listen on {host}:{port}: {error.strerror or error}") from error


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json")
