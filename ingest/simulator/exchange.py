"""An exchange on localhost that speaks Binance: the demo's market and the tests' opponent.

Websocket at `/ws`, `/ws/<stream>` and `/stream?streams=`, REST at `/api/v3`, and `/control` to make it misbehave. What
is truly traded is always readable from its tapes and over REST; `record` tells what was done wrong to the feed.
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

from app.errors import OperatorError
from ingest.simulator import frames
from ingest.simulator.market import Market
from ingest.simulator.misbehaviour import Distortion, Misbehaviour, Record
from ingest.simulator.replay import Replay
from ingest.simulator.rest import RestApi
from ingest.simulator.session import Limits, Session, Sessions
from ingest.simulator.tape import Tape, Trade

log = structlog.get_logger()

BATCH = 2000
"""Trades generated and sent before other work gets its turn."""
SHORTEST_NAP = 0.002
LONGEST_NAP = 0.1
MAX_LAG = 60 * frames.SECOND
"""After a longer pause (a suspended machine) the feed jumps to now, as a real one would have gone on without us."""
KINDS = ("trade", "aggTrade", "kline_1s", "miniTicker")
ENCODERS = (("trade", frames.trade_frame), ("aggTrade", frames.aggregate_frame))
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


class Orders(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What can be ordered once: cut every connection, go silent, or close for so many seconds (0: only roll over)."""

    drop: bool = False
    silence: float | None = None
    close: float | None = None


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
        self.misbehaviour = misbehaviour or Misbehaviour()
        self.record = Record()
        self._clock = clock
        self._tapes: dict[str, Tape] = {symbol: Market(symbol, rate, seed) for symbol in symbols}
        self._tapes |= {replay.listing.symbol: replay for replay in replays}
        if not self._tapes:
            raise OperatorError("the simulated exchange has nothing to trade: name a symbol or a file to replay")
        self._distortions = {symbol: Distortion(symbol, self.record) for symbol in self._tapes}
        self._wanted = {symbol: asyncio.Event() for symbol in self._tapes}
        self._sessions = Sessions(limits or Limits(), self.record.counters, self._subscription_changed)
        self._rest = RestApi(self._tapes, clock, lambda: self.misbehaviour.weight_limit)
        self._failure: asyncio.Future[None] | None = None

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple(self._tapes)

    @property
    def connections(self) -> int:
        return len(self._sessions.open)

    def tape(self, symbol: str) -> Tape:
        """What is truly traded; LookupError for a symbol that is not."""
        return self._tapes[symbol]

    def next_id(self, symbol: str) -> int:
        """The id that the symbol's next trade will have."""
        tape = self._tapes[symbol]
        return tape.id_at(tape.now_us(self._clock()) + 1)

    def misbehave(self, misbehaviour: Misbehaviour) -> None:
        """Behave like this from the next trade on."""
        self.misbehaviour = misbehaviour

    def drop_connections(self) -> None:
        """Cut every connection at once, without a close frame."""
        self.record.counters["drop"] += 1
        self._sessions.drop()

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
        app = web.Application()
        app.add_routes(self._rest.routes())
        app.add_routes(
            [
                web.get("/ws", self._raw),
                web.get("/ws/{streams:.*}", self._raw),
                web.get("/stream", self._combined),
                web.get("/control", self._control_state),
                web.post("/control", self._control),
            ]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        feeds = [asyncio.create_task(self._feed(symbol), name=f"exchange-{symbol}") for symbol in self._tapes]
        try:
            await _listen(runner, host, port)
            address = Address(host, runner.addresses[0][1])
            log.info("exchange opened", address=address.http, symbols=len(self._tapes))
            self._failure = asyncio.get_running_loop().create_future()
            for feed in feeds:
                feed.add_done_callback(self._feed_ended)
            yield address
        finally:
            for feed in feeds:
                feed.cancel()
            ended = await asyncio.gather(*feeds, return_exceptions=True)
            self._sessions.drop()
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

    def _subscription_changed(self, stream: str) -> None:
        symbol = stream.partition("@")[0].upper()
        if symbol in self._tapes:
            if any(self._sessions.wanted(f"{symbol.lower()}@{kind}") for kind in KINDS):
                self._wanted[symbol].set()
            else:
                self._wanted[symbol].clear()

    async def _feed(self, symbol: str) -> None:
        """Send what is due by the clock, again and again: late work is caught up with, so the rate never drifts."""
        tape, wanted = self._tapes[symbol], self._wanted[symbol]
        while await wanted.wait():
            clock_us = self._clock()
            if isinstance(tape, Replay):
                tape.begin(clock_us)
            now = tape.now_us(clock_us)
            next_id, second, day = tape.id_at(now), now // frames.SECOND, frames.Day(tape)
            while wanted.is_set():
                now = tape.now_us(self._clock())
                due = tape.time_of(next_id)
                if due is not None and now - due > MAX_LAG * tape.pace:
                    log.warning("exchange feed jumped", symbol=symbol, seconds=(now - due) // frames.SECOND)
                    next_id, second = tape.id_at(now), now // frames.SECOND
                if trades := tape.trades(next_id, BATCH, now):
                    next_id = trades[-1].id + 1
                    self._publish_trades(symbol, trades, now)
                if len(trades) == BATCH:
                    await asyncio.sleep(0)
                    continue
                self._publish_seconds(tape, day, second, now)
                second = now // frames.SECOND
                await asyncio.sleep(_nap(tape, next_id, now))

    def _publish_trades(self, symbol: str, trades: Sequence[Trade], now_us: int) -> None:
        wanted = [
            (stream, encode) for kind, encode in ENCODERS if self._sessions.wanted(stream := f"{symbol.lower()}@{kind}")
        ]
        if not wanted:
            return
        if self._sessions.silent:
            self.record.counters["silenced"] += len(trades)
            return
        sent = self._distortions[symbol].apply(trades, self.misbehaviour)
        self.record.counters["sent"] += len(sent)
        for stream, encode in wanted:
            payloads = [one if isinstance(one, bytes) else encode(symbol, one, now_us) for one in sent]
            self._sessions.publish(stream, payloads)

    def _publish_seconds(self, tape: Tape, day: frames.Day, since: int, now_us: int) -> None:
        """The candles and the ticker of the seconds that ended since second `since`."""
        symbol = tape.listing.symbol.lower()
        if since == now_us // frames.SECOND:
            return
        if self._sessions.wanted(f"{symbol}@kline_1s"):
            starts = range(since * frames.SECOND, now_us // frames.SECOND * frames.SECOND, frames.SECOND)
            candles = [frames.kline_frame(tape, start, now_us) for start in starts]
            self._sessions.publish(f"{symbol}@kline_1s", candles)
        if self._sessions.wanted(f"{symbol}@miniTicker") and (ticker := day.frame(now_us)):
            self._sessions.publish(f"{symbol}@miniTicker", [ticker])

    async def _raw(self, request: web.Request) -> web.StreamResponse:
        return await self._connect(request, request.match_info.get("streams", ""), combined=False)

    async def _combined(self, request: web.Request) -> web.StreamResponse:
        return await self._connect(request, request.query.get("streams", ""), combined=True)

    async def _connect(self, request: web.Request, names: str, *, combined: bool) -> web.StreamResponse:
        streams = [name for name in names.split("/") if "@" in name or "!" in name]
        if self._sessions.closed:
            return web.Response(status=503)
        if len(streams) > self._sessions.limits.streams:
            return web.Response(status=400, text=f"at most {self._sessions.limits.streams} streams on a connection")
        session = Session(self._sessions, request, combined=combined)
        life, notice = self.misbehaviour.max_connection_seconds, self.misbehaviour.notice_seconds
        return await session.serve(streams, life=life, notice=notice, clock=self._clock)

    async def _control_state(self, request: web.Request) -> web.Response:
        return _json(
            {
                "misbehaviour": self.misbehaviour,
                "counters": self.record.counters,
                "deeds": list(self.record.deeds)[-LOG_SHOWN:],
                "connections": self.connections,
                "next_ids": {symbol: self.next_id(symbol) for symbol in self._tapes},
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
        except msgspec.DecodeError as error:
            return _json({"code": -1130, "msg": str(error)}, status=400)
        self.misbehave(misbehaviour)
        if orders.drop:
            self.drop_connections()
        if orders.silence is not None:
            self.go_silent(orders.silence)
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


def _nap(tape: Tape, next_id: int, now_us: int) -> float:
    """Seconds until the next trade or the end of this second, whichever comes first."""
    due = (now_us // frames.SECOND + 1) * frames.SECOND
    if (trade := tape.time_of(next_id)) is not None:
        due = min(due, trade)
    return min(LONGEST_NAP, max(SHORTEST_NAP, (due - now_us) / tape.pace / frames.SECOND))


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json")
