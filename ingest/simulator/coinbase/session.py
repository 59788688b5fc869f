"""A client of Coinbase Exchange's feed: subscribe and unsubscribe, answered by `subscriptions` or `error`.

A request with a fault changes nothing. Subscribing to matches brings a product's last trade first, as the real feed
does; the match after it is the next trade.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence

import msgspec
from aiohttp import web

from ingest.simulator import wire
from ingest.simulator.coinbase.frames import CHANNELS, MATCHES, topic
from ingest.simulator.session import Session, Sessions
from ingest.simulator.wire import Topic

MESSAGES_PER_SECOND = 100
SUBSCRIBE_SECONDS = 5.0
"""Who has not subscribed by then is disconnected."""


class _Channel(msgspec.Struct):
    name: str
    product_ids: list[str] = []


class _Request(msgspec.Struct):
    type: str
    product_ids: list[str] = []
    channels: list[str | _Channel] = []


class Refused(Exception):  # answered, not raised to a user
    """A request that is answered with an error: `message` says what failed, the text why."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(reason)
        self.message = message


class CoinbaseSession(Session):
    """One connection to `/`. `last_match` tells a product's last trade as a message, or None before its first."""

    def __init__(
        self,
        sessions: Sessions,
        request: web.Request,
        products: Collection[str],
        last_match: Callable[[str], bytes | None],
    ) -> None:
        super().__init__(sessions, request, MESSAGES_PER_SECOND)
        self._products = products
        self._last_match = last_match
        self._deadline: asyncio.TimerHandle | None = None

    async def serve(
        self, topics: Sequence[Topic], *, life: float, notice: float, clock: Callable[[], int]
    ) -> web.WebSocketResponse:
        self._deadline = asyncio.get_running_loop().call_later(SUBSCRIBE_SECONDS, self.abort)
        try:
            return await super().serve(topics, life=life, notice=notice, clock=clock)
        finally:
            self._deadline.cancel()

    def answer(self, frame: str) -> None:
        try:
            request = _decoded(frame)
            wanted = self._wanted(request)
        except Refused as refusal:
            error = {"type": "error", "message": refusal.message, "reason": str(refusal)}
            self.write(wire.text(msgspec.json.encode(error)))
            return
        if request.type == "unsubscribe":
            self.sessions.unsubscribe(self, [topic(channel, product) for channel, product in wanted])
        else:
            self._subscribe(wanted)
        self.write(wire.text(msgspec.json.encode({"type": "subscriptions", "channels": self._channels()})))

    def _subscribe(self, wanted: list[tuple[str, str]]) -> None:
        if self._deadline:
            self._deadline.cancel()
        self.sessions.subscribe(self, [topic(channel, product) for channel, product in wanted])
        for channel, product in wanted:
            if channel == MATCHES and (match := self._last_match(product)):
                self.write(wire.text(match))

    def _wanted(self, request: _Request) -> list[tuple[str, str]]:
        """The channels and products that a request names; Refused as a whole for one that is not."""
        failed = f"Failed to {request.type}"
        if not request.channels:
            raise Refused(failed, "No channels provided")
        wanted = []
        for entry in request.channels:
            channel = entry if isinstance(entry, _Channel) else _Channel(entry)
            if channel.name not in CHANNELS:
                raise Refused(failed, f"{channel.name} is not a valid channel")
            products = [*request.product_ids, *channel.product_ids]
            if request.type == "unsubscribe" and not products:
                products = list(self._products)
            if not products:
                raise Refused(failed, f"You need to specify at least one product ID for channel {channel.name}")
            for product in products:
                if product not in self._products:
                    raise Refused(failed, f"{product} is not a valid product")
            wanted += [(channel.name, product) for product in dict.fromkeys(products)]
        return wanted

    def _channels(self) -> list[dict[str, object]]:
        """What is subscribed to, by channel."""
        chosen: dict[str, list[str]] = {}
        for subscribed in self.topics:
            channel, _, product = subscribed.stream.partition(":")
            chosen.setdefault(channel, []).append(product)
        return [{"name": channel, "product_ids": products} for channel, products in chosen.items()]


def _decoded(frame: str) -> _Request:
    try:
        request = msgspec.json.decode(frame, type=_Request)
    except msgspec.ValidationError as error:
        raise Refused("Malformed request", str(error)) from error
    except msgspec.DecodeError as error:
        raise Refused("Malformed JSON", str(error)) from error
    if request.type not in {"subscribe", "unsubscribe"}:
        raise Refused("Type has to be either subscribe or unsubscribe", f"{request.type} is not a valid type")
    return request
