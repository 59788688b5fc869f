"""One client's conversation: requests in, answers and subscriptions out into its outbox. Knows no web framework."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, assert_never

from app.errors import InvalidParameter, UnknownSymbol
from app.market.model import Instrument
from app.market.registry import Registry
from app.stream import protocol
from app.stream.budget import Budget
from app.stream.history import StoredHistory
from app.stream.hub import Hub
from app.stream.keys import CandlesKey, Key, TickerKey, TradesKey
from app.stream.protocol import BadRequest, encode
from app.stream.subscriber import Subscriber
from app.stream.subscription import Joiner, Subscription

EVERY_SYMBOL: Final = ["*"]


class Session:
    """Owned by one connection, which feeds it frames one after another and calls `leave` at the end.

    Requests are answered at once; subscriptions come to life in `join_for_ever`.
    """

    def __init__(self, hub: Hub, history: StoredHistory, registry: Registry, subscriber: Subscriber) -> None:
        self._hub = hub
        self._history = history
        self._registry = registry
        self._subscriber = subscriber
        self._held: dict[Key, Subscription] = {}
        self._joiner = Joiner(hub)
        self._budget = Budget(protocol.MAX_MESSAGES_PER_SECOND)

    def receive(self, frame: str) -> None:
        """Carry out one frame. Raises BadFrame and TooManyMessages, which end the connection."""
        self._budget.spend()
        try:
            self._carry_out(protocol.decode(frame))
        except BadRequest as error:
            self._push(protocol.ErrorEvent(error.code, error.message, error.request_id))

    async def join_for_ever(self) -> None:
        """Bring subscriptions to life in the order they were asked for, until cancelled."""
        await self._joiner.run()

    def leave(self) -> None:
        """End every subscription."""
        for key in list(self._held):
            self._drop(key)

    def _carry_out(self, request: protocol.Request) -> None:
        match request:
            case protocol.Subscribe():
                self._subscribe(request)
            case protocol.Unsubscribe():
                self._unsubscribe(request)
            case protocol.List():
                held = [subscription.describe() for subscription in self._held.values()]
                self._push(protocol.Subscriptions(request.id, held))
            case protocol.Ping():
                self._push(protocol.Heartbeat(datetime.now(UTC), request.id))
            case protocol.Auth():
                raise BadRequest("not_available", "this server has no private channels", request.id)
            case _:
                assert_never(request)

    def _subscribe(self, request: protocol.Subscribe) -> None:
        instruments = self._instruments(request)
        keys = self._keys(request, instruments)
        if len(self._held.keys() | set(keys)) > protocol.MAX_SUBSCRIPTIONS:
            limit = protocol.MAX_SUBSCRIPTIONS
            raise BadRequest("too_many_subscriptions", f"a connection may hold {limit} subscriptions", request.id)
        since = self._since(request, instruments)
        self._acknowledge(protocol.Subscribed, request, instruments)
        for instrument, key in zip(instruments, keys, strict=True):
            after_id = since.get(instrument.id)
            if key in self._held:
                if after_id is None:
                    continue
                self._drop(key)
            subscription = Subscription(self._hub, self._history, self._subscriber, instrument, key)
            subscription.since = after_id
            self._held[key] = subscription
            self._joiner.add(subscription)

    def _since(self, request: protocol.Subscribe, instruments: list[Instrument]) -> dict[int, int]:
        if request.since and request.channel != "trades":
            raise BadRequest("bad_request", "since goes with trades alone", request.id)
        since: dict[int, int] = {}
        for symbol, after_id in request.since.items():
            instrument = self._instrument(symbol, request.id)
            if instrument not in instruments:
                raise BadRequest("bad_request", f"since names {symbol}, and symbols does not", request.id)
            since[instrument.id] = after_id
        return since

    def _unsubscribe(self, request: protocol.Unsubscribe) -> None:
        if request.symbols == EVERY_SYMBOL:
            # All that is held, which may be more than what is active now.
            keys = {self._keys(request, [held.instrument])[0] for held in self._held.values()} & self._held.keys()
            instruments = [self._held[key].instrument for key in self._held if key in keys]
        else:
            instruments = self._instruments(request)
            keys = set(self._keys(request, instruments)) & self._held.keys()
        for key in keys:
            self._drop(key)
        self._acknowledge(protocol.Unsubscribed, request, instruments)

    def _drop(self, key: Key) -> None:
        self._joiner.drop(self._held.pop(key))

    def _instruments(self, request: protocol.Subscribe | protocol.Unsubscribe) -> list[Instrument]:
        if request.symbols == EVERY_SYMBOL:
            return [instrument for instrument in self._registry.all if instrument.active]
        return list({i.id: i for i in (self._instrument(symbol, request.id) for symbol in request.symbols)}.values())

    def _instrument(self, symbol: str, request_id: Any) -> Instrument:
        try:
            return self._registry.find(symbol)
        except UnknownSymbol as error:
            raise BadRequest("unknown_symbol", str(error), request_id) from None
        except InvalidParameter as error:
            raise BadRequest("bad_request", str(error), request_id) from None

    def _keys(self, request: protocol.Subscribe | protocol.Unsubscribe, instruments: list[Instrument]) -> list[Key]:
        """The keys of the request's topics, in the order of the instruments."""
        zone, interval = protocol.zone_of(request), request.interval
        if (interval is not None) != (request.channel == "candles"):
            raise BadRequest("bad_request", "interval goes with candles, and candles need one", request.id)
        if interval is not None:
            return [CandlesKey(instrument.id, interval, zone) for instrument in instruments]
        if request.channel == "trades":
            return [TradesKey(instrument.id) for instrument in instruments]
        return [TickerKey(instrument.id) for instrument in instruments]

    def _acknowledge(
        self,
        answer: Callable[..., protocol.Subscribed],
        request: protocol.Subscribe | protocol.Unsubscribe,
        instruments: list[Instrument],
    ) -> None:
        symbols = [instrument.symbol for instrument in instruments]
        zone = protocol.zone_of(request) if request.channel == "candles" else None
        self._push(answer(request.id, request.channel, symbols, request.interval, zone))

    def _push(self, event: protocol.Event) -> None:
        self._subscriber.push(encode(event))
