"""One Binance client's conversation: control frames in, answers and subscriptions out into its outbox."""

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC
from functools import partial
from typing import Final, NamedTuple, assert_never

from app.binance.arrays import Arrays
from app.binance.forms import Forms
from app.binance.handshake import Handshake, UnknownStream, known
from app.binance.names import Names
from app.binance.outbox import Outbox
from app.binance.wire import control
from app.binance.wire.control import Refused
from app.binance.wire.streams import Stream, written
from app.binance.wire.weights import MESSAGES_PER_SECOND, STREAMS
from app.market.intervals import Interval, bucket_of
from app.market.model import EPOCH, InstrumentId
from app.market.registry import Registry
from app.market.zones import zone_text
from app.stream.budget import Budget, TooManyMessages
from app.stream.history import StoredHistory
from app.stream.hub import Hub
from app.stream.keys import CandlesKey, Key, TickerKey, TradesKey
from app.stream.protocol import BadFrame, Close
from app.stream.subscription import Joiner, Subscription

MAX_FRAME_BYTES: Final = 131_072
"""Enough to subscribe to 1,024 streams in one message."""
NOTICE_SECONDS: Final = 60.0
"""How long before its end a connection is told of it."""


class Shared(NamedTuple):
    """What all sessions of a process share."""

    hub: Hub
    history: StoredHistory
    registry: Registry
    names: Names
    forms: Forms
    arrays: Arrays


class Held:
    """A stream that the client asked for; `end` is None until it has begun."""

    def __init__(self, stream: Stream | None, since: int | None = None) -> None:
        self.stream = stream
        self.since = since
        self.end: Callable[[], None] | None = None


class Session:
    """Owned by one connection, which feeds it frames one after another and calls `leave` at the end.

    A stream of a symbol that is not known yet comes to life with its instrument. `life` is in seconds.
    """

    def __init__(self, shared: Shared, outbox: Outbox, handshake: Handshake, life: float) -> None:
        self._shared = shared
        self._outbox = outbox
        self._handshake = handshake
        self._life = life
        self._held: dict[str, Held] = {}
        self._joiner = Joiner(shared.hub)
        self._budget = Budget(MESSAGES_PER_SECOND)
        self._hold(handshake.streams, handshake.since)

    def receive(self, frame: str) -> None:
        """Carry out one frame. Raises BadFrame and TooManyMessages, which end the connection."""
        self._budget.spend()
        if len(frame.encode()) > MAX_FRAME_BYTES:
            raise BadFrame(f"a message may have {MAX_FRAME_BYTES} bytes at most")
        try:
            answer = self._carry_out(control.decode(frame))
        except Refused as error:
            answer = control.refusal(error)
        self._outbox.push(answer)

    def heard(self) -> None:
        """Count a ping or pong frame, which are messages too."""
        try:
            self._budget.spend()
        except TooManyMessages:
            self._outbox.end(Close.TOO_MANY)

    async def join_for_ever(self) -> None:
        """Bring subscriptions to life in the order they were asked for, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._joiner.run(), name="binance joiner")
            tasks.create_task(self._keep_up(), name="binance symbols")
            tasks.create_task(self._grow_old(), name="binance life")

    def leave(self) -> None:
        """End every subscription."""
        self._release([*self._held])

    async def _keep_up(self) -> None:
        """Begin the streams whose instruments are new."""
        registry = self._shared.registry
        while True:
            version = registry.version
            for name, held in self._held.items():
                self._begin(name, held)
            await registry.change(version)

    async def _grow_old(self) -> None:
        await asyncio.sleep(self._life - NOTICE_SECONDS)
        self._outbox.announce_shutdown()
        await asyncio.sleep(NOTICE_SECONDS)
        self._outbox.retire()

    def _carry_out(self, request: control.Request) -> str:
        match request:
            case control.Subscribe(names, request_id):
                self._hold(self._wanted(names, request_id))
                return control.answer(request_id)
            case control.Unsubscribe(names, request_id):
                self._release(map(written, names))
                return control.answer(request_id)
            case control.ListSubscriptions(request_id):
                return control.answer(request_id, [*self._held])
            case control.SetProperty(combined, request_id):
                self._outbox.combined = combined
                return control.answer(request_id)
            case control.GetProperty(request_id):
                return control.answer(request_id, self._outbox.combined)
            case _:
                assert_never(request)

    def _wanted(self, names: Iterable[str], request_id: control.Id) -> dict[str, Stream | None]:
        """The streams of a request, all of them, or Refused."""
        try:
            streams = {written(name): known(name) for name in names}
        except UnknownStream as error:
            raise Refused(control.INVALID_REQUEST, f"Invalid request: {error}", request_id) from None
        if len(self._held.keys() | streams.keys()) > STREAMS:
            raise control.too_many_streams(STREAMS, request_id)
        return streams

    def _hold(self, streams: dict[str, Stream | None], since: int | None = None) -> None:
        for name, stream in streams.items():
            if name not in self._held:
                self._held[name] = Held(stream, since)
                self._begin(name, self._held[name])

    def _release(self, names: Iterable[str]) -> None:
        for name in names:
            held = self._held.pop(name, None)
            if held and held.end:
                held.end()

    def _begin(self, name: str, held: Held) -> None:
        """Subscribe to what a held stream tells of, where that has not been done; it waits for its instrument."""
        shared, stream = self._shared, held.stream
        if stream is None or held.end:
            return
        form = shared.forms.of(stream, self._handshake.unit, self._handshake.extensions)
        if stream.symbol is None:
            shared.arrays.listen(form, self._outbox, name)
            held.end = partial(shared.arrays.leave, form, self._outbox, name)
        elif instrument := shared.names.get(stream.symbol):
            key = key_of(stream, instrument.id)
            subscription = Subscription(shared.hub, shared.history, self._outbox, instrument, key, form, name)
            subscription.since = held.since
            self._joiner.add(subscription)
            held.end = partial(self._joiner.drop, subscription)


def key_of(stream: Stream, instrument_id: InstrumentId) -> Key:
    """The topic that a stream's events come from; offsets that move no kline of an interval share one."""
    match stream.kind:
        case "trade" | "aggTrade":
            return TradesKey(instrument_id)
        case "kline":
            interval = stream.interval or Interval.M1
            moved = bucket_of(EPOCH, interval, stream.zone) != bucket_of(EPOCH, interval)
            return CandlesKey(instrument_id, interval, zone_text(stream.zone if moved else UTC))
        case "ticker" | "miniTicker" | "avgPrice":
            return TickerKey(instrument_id)
