"""The streams of all instruments: the tickers that changed in a second, gathered once for all clients of a form."""

import asyncio
from typing import Final

from app.binance.outbox import Array, Outbox
from app.market.model import InstrumentId
from app.market.registry import Registry
from app.stream.form import Form
from app.stream.history import StoredHistory
from app.stream.hub import Hub
from app.stream.keys import TickerKey
from app.stream.subscriber import Label, Subscriber
from app.stream.subscription import Joiner, Subscription

CLIENTS_AT_ONCE: Final = 20
"""Clients that an array is given to before others get their turn: a frame is tens of kilobytes long."""


class Arrays:
    """Follows the active instruments for as long as anybody listens to them; runs as one task of the process."""

    def __init__(self, hub: Hub, history: StoredHistory, registry: Registry) -> None:
        self._hub = hub
        self._history = history
        self._registry = registry
        self._joiner = Joiner(hub)
        self._changed = asyncio.Event()
        self._gathered: dict[Form, _Tickers] = {}

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._joiner.run(), name="array joiner")
            tasks.create_task(self._keep_up(), name="array instruments")
            tasks.create_task(self._hand_out_for_ever(), name="array clients")

    def listen(self, form: Form, outbox: Outbox, stream: str) -> None:
        """Give a client the arrays of a form from now on, as those of a stream."""
        tickers = self._gathered.get(form)
        if tickers is None:
            tickers = self._gathered[form] = _Tickers(form, self._changed)
            self._subscribe(tickers)
        tickers.audience[outbox, stream] = None

    def leave(self, form: Form, outbox: Outbox, stream: str) -> None:
        outbox.forget_array(stream)
        tickers = self._gathered[form]
        tickers.audience.pop((outbox, stream), None)
        if not tickers.audience:
            del self._gathered[form]
            for subscription in tickers.subscriptions.values():
                self._joiner.drop(subscription)

    async def _keep_up(self) -> None:
        """Follow the instruments that come and go."""
        while True:
            version = self._registry.version
            for tickers in self._gathered.values():
                self._subscribe(tickers)
            await self._registry.change(version)

    def _subscribe(self, tickers: "_Tickers") -> None:
        active = {instrument.id: instrument for instrument in self._registry.all if instrument.active}
        held = tickers.subscriptions
        for gone in held.keys() - active.keys():
            self._joiner.drop(held.pop(gone))
        for instrument_id in active.keys() - held.keys():
            instrument, key = active[instrument_id], TickerKey(instrument_id)
            held[instrument_id] = Subscription(
                self._hub, self._history, tickers, instrument, key, tickers.form, instrument_id
            )
            self._joiner.add(held[instrument_id])

    async def _hand_out_for_ever(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            for tickers in [*self._gathered.values()]:
                await tickers.hand_out()


class _Tickers(Subscriber):
    """Gathers what topics tell in one form; `audience` are the clients, each with what it calls the stream."""

    def __init__(self, form: Form, changed: asyncio.Event) -> None:
        super().__init__(0)
        self.form = form
        self.subscriptions: dict[InstrumentId, Subscription] = {}
        self.audience: dict[tuple[Outbox, str], None] = {}
        self._changed = changed
        self._fresh: dict[Label, str] = {}

    def push(self, text: str, label: Label = None) -> None:
        """What a subscription begins with is no change."""

    def push_latest(self, label: Label, text: str) -> None:
        self._fresh[label] = text
        self._changed.set()

    def forget_latest(self, label: Label) -> None:
        self._fresh.pop(label, None)

    async def hand_out(self) -> None:
        """Give what has changed to all, some at a time."""
        if not self._fresh:
            return
        array, self._fresh = Array(self._fresh), {}
        for count, (outbox, stream) in enumerate([*self.audience], start=1):
            if (outbox, stream) in self.audience:
                outbox.push_array(stream, array)
            if count % CLIENTS_AT_ONCE == 0:
                await asyncio.sleep(0)
