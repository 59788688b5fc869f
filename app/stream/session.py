"""One client's conversation: requests in, subscriptions kept, answers and replays into its outbox. Knows no web framework."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, assert_never

from app.errors import DatabaseUnavailable, InvalidParameter, UnknownSymbol
from app.market.model import Instrument, Trade
from app.market.registry import Registry
from app.market.store import Place
from app.stream import protocol
from app.stream.history import StoredHistory
from app.stream.hub import Hub
from app.stream.protocol import BadRequest, GapEvent, Snapshot, encode
from app.stream.subscriber import Subscriber
from app.stream.topics import CandlesKey, Key, TickerKey, TradesKey, TradesTopic, trade_event

REPLAY_PAGE: Final = 1_000


class TooManyMessages(Exception):
    """The client sends more than the published rate; the connection closes with 4429."""


class Session:
    """Owned by one connection, which feeds it frames one after another and calls `leave` at the end."""

    def __init__(self, hub: Hub, history: StoredHistory, registry: Registry, subscriber: Subscriber) -> None:
        self._hub = hub
        self._history = history
        self._registry = registry
        self._subscriber = subscriber
        self._keys: dict[Key, dict[str, Any]] = {}
        self._budget = float(protocol.MAX_MESSAGES_PER_SECOND)
        self._budget_at = time.monotonic()

    async def receive(self, frame: str | bytes) -> None:
        """Carry out one frame. Raises BadFrame and TooManyMessages, which end the connection."""
        self._count_message()
        try:
            await self._carry_out(protocol.decode(frame))
        except BadRequest as error:
            self._push(protocol.ErrorEvent(error.code, error.message, error.request_id))

    def leave(self) -> None:
        """End every subscription."""
        for key in list(self._keys):
            self._drop(key)

    def _count_message(self) -> None:
        now = time.monotonic()
        rate = protocol.MAX_MESSAGES_PER_SECOND
        self._budget = min(rate, self._budget + (now - self._budget_at) * rate) - 1
        self._budget_at = now
        if self._budget < 0:
            raise TooManyMessages

    async def _carry_out(self, request: protocol.Request) -> None:
        match request:
            case protocol.Subscribe():
                await self._subscribe(request)
            case protocol.Unsubscribe():
                self._unsubscribe(request)
            case protocol.List():
                self._push(protocol.Subscriptions(request.id, list(self._keys.values())))
            case protocol.Ping():
                self._push(protocol.Heartbeat(datetime.now(UTC), request.id))
            case protocol.Auth():
                raise BadRequest("not_available", "this server has no private channels", request.id)
            case _:
                assert_never(request)

    async def _subscribe(self, request: protocol.Subscribe) -> None:
        instruments = self._instruments(request)
        wanted = [(instrument, self._key(request, instrument)) for instrument in instruments]
        new = [(instrument, key) for instrument, key in wanted if key not in self._keys]
        if len(self._keys) + len(new) > protocol.MAX_SUBSCRIPTIONS:
            limit = protocol.MAX_SUBSCRIPTIONS
            raise BadRequest("too_many_subscriptions", f"a connection may hold {limit} subscriptions", request.id)
        if request.since and request.channel != "trades":
            raise BadRequest("bad_request", "since goes with trades alone", request.id)
        since = {self._instrument(symbol, request.id).id: after for symbol, after in request.since.items()}
        self._push(self._acknowledge(protocol.Subscribed, request, instruments))
        for instrument, key in new:
            self._keys[key] = self._describe(request, instrument)
            try:
                await self._join(instrument, key, since.get(instrument.id))
            except DatabaseUnavailable:
                self._drop(key)
                symbol = instrument.symbol
                raise BadRequest(
                    "unavailable", f"the database is away; subscribe to {symbol} again", request.id
                ) from None

    def _unsubscribe(self, request: protocol.Unsubscribe) -> None:
        instruments = self._instruments(request)
        for instrument in instruments:
            key = self._key(request, instrument)
            if key in self._keys:
                self._drop(key)
        self._push(self._acknowledge(protocol.Unsubscribed, request, instruments))

    async def _join(self, instrument: Instrument, key: Key, since: int | None) -> None:
        hub, subscriber = self._hub, self._subscriber
        match key:
            case TradesKey():
                await self._join_trades(hub.trades(instrument), since)
            case CandlesKey():
                candles = hub.candles(instrument, key)
                # Held from here on, so that another's leaving does not take the topic away while we read.
                candles.subscribers.add(subscriber)
                await hub.ready(candles)
                self._push(
                    Snapshot("candles", instrument.symbol, key.interval, key.zone, candles=candles.series.snapshot())
                )
            case TickerKey():
                ticker = hub.ticker(instrument)
                ticker.subscribers.add(subscriber)
                await hub.ready(ticker)
                current = ticker.day.ticker(datetime.now(UTC))
                self._push(Snapshot("ticker", instrument.symbol, ticker=current))
            case _:
                assert_never(key)

    async def _join_trades(self, topic: TradesTopic, since: int | None) -> None:
        """Send the past out of the table until the topic's ring reaches back to it, then go live: no hole, no repeat."""
        subscriber, symbol = self._subscriber, topic.instrument.symbol
        topic.joining += 1
        try:
            if since is not None and since > topic.last_id >= 0:
                self._push(protocol.ResetEvent("trades", symbol))
                since = None
            if since is None:
                trades = await self._history.newest_trades(topic.instrument, protocol.SNAPSHOT_TRADES)
                self._push(Snapshot("trades", symbol, trades=trades))
                reached = max((trade.trade_id for trade in trades), default=-1)
            else:
                reached = await self._replay(topic, since)
            while (events := topic.since(reached)) is None:
                reached = await self._replay(topic, reached)
            if events:
                subscriber.push(",".join(events))
                reached = max(reached, topic.ring[-1][0])
            subscriber.follow_trades(symbol, reached)
            topic.subscribers.add(subscriber)
        finally:
            topic.joining -= 1

    async def _replay(self, topic: TradesTopic, after_id: int) -> int:
        """Send what the table holds above an id, a page at a time as the client takes it; answers the last id reached."""
        instrument, reached = topic.instrument, after_id
        place = await self._history.place_after_id(instrument, after_id)
        while place is not None:
            page = await self._history.trades_after(instrument, place, after_id, REPLAY_PAGE)
            if page:
                reached = self._push_page(instrument, page, reached)
                place = Place(page[-1].time, page[-1].trade_id)
            if len(page) < REPLAY_PAGE:
                break
            await self._subscriber.room()
        # What the table does not hold will not come.
        return max(reached, topic.joined_at)

    def _push_page(self, instrument: Instrument, page: list[Trade], reached: int) -> int:
        events: list[str] = []
        for trade in page:
            if instrument.contiguous_ids and trade.trade_id > reached + 1:
                events.append(encode(GapEvent(instrument.symbol, reached + 1, trade.trade_id - 1, "missing")))
            events.append(encode(trade_event(instrument.symbol, trade)))
            reached = max(reached, trade.trade_id)
        self._subscriber.push(",".join(events))
        return reached

    def _drop(self, key: Key) -> None:
        described = self._keys.pop(key)
        if isinstance(key, TradesKey):
            self._subscriber.unfollow_trades(described["symbol"])
        self._subscriber.forget_latest(key)
        self._hub.leave(self._subscriber, key)

    def _instruments(self, request: protocol.Subscribe | protocol.Unsubscribe) -> list[Instrument]:
        if request.symbols == ["*"]:
            return [instrument for instrument in self._registry.all if instrument.active]
        return list({i.id: i for i in (self._instrument(symbol, request.id) for symbol in request.symbols)}.values())

    def _instrument(self, symbol: str, request_id: Any) -> Instrument:
        try:
            return self._registry.find(symbol)
        except UnknownSymbol as error:
            raise BadRequest("unknown_symbol", str(error), request_id) from None
        except InvalidParameter as error:
            raise BadRequest("bad_request", str(error), request_id) from None

    def _key(self, request: protocol.Subscribe | protocol.Unsubscribe, instrument: Instrument) -> Key:
        zone = protocol.zone_of(request)
        if (request.interval is not None) != (request.channel == "candles"):
            raise BadRequest("bad_request", "interval goes with candles, and candles need one", request.id)
        match request.channel:
            case "trades":
                return TradesKey(instrument.id)
            case "candles":
                assert request.interval is not None  # checked above
                return CandlesKey(instrument.id, request.interval, str(zone))
            case "ticker":
                return TickerKey(instrument.id)
            case _:
                assert_never(request.channel)

    def _describe(self, request: protocol.Subscribe, instrument: Instrument) -> dict[str, Any]:
        described: dict[str, Any] = {"channel": request.channel, "symbol": instrument.symbol}
        if request.channel == "candles":
            described |= {"interval": request.interval, "timezone": request.timezone}
        return described

    def _acknowledge(
        self,
        answer: Callable[..., protocol.Subscribed],
        request: protocol.Subscribe | protocol.Unsubscribe,
        instruments: list[Instrument],
    ) -> protocol.Subscribed:
        symbols = [instrument.symbol for instrument in instruments]
        zone = request.timezone if request.channel == "candles" else None
        return answer(request.id, request.channel, symbols, request.interval, zone)

    def _push(self, event: Any) -> None:
        self._subscriber.push(encode(event))
