"""Binance-style names of the instruments: unique over all sources, and the same for ever."""

import re
from typing import Final

from app.binance.wire.errors import bad_symbol
from app.market.model import Instrument, InstrumentId
from app.market.registry import Registry

NO_CURRENCY: Final = "XXX"
"""What ISO 4217 calls a quote in no currency."""
Assets = tuple[str, str]
_NOT_PLAIN: Final = re.compile(r"[^A-Z0-9]")


class Names:
    """What the instruments of a registry are called, in upper case.

    `BTC-USD` of COINBASE can be `BTCUSD`, `COINBASE.BTCUSD` or `COINBASE.BTCUSD.7` (7 is its id). In the order of their
    ids, the instruments claim those of their three names that are still free; the first that one has claimed is its
    own, and by the others it is found too. As no instrument is ever deleted, no name ever comes to mean another one,
    but for two of one name that are added in the same moment, whose ids may be committed in either order.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._version = 0
        self._by_name: dict[str, Instrument] = {}
        self._names: dict[InstrumentId, str] = {}
        self._assets: dict[InstrumentId, Assets] = {}
        self._claimed: set[Assets] = set()

    def find(self, name: str) -> Instrument:
        """The instrument of a name; raises BinanceError where there is none."""
        if instrument := self.get(name):
            return instrument
        raise bad_symbol()

    def get(self, name: str) -> Instrument | None:
        self._keep_up()
        return self._by_name.get(name)

    def name_of(self, instrument: Instrument) -> str:
        self._keep_up()
        return self._names[instrument.id]

    def assets_of(self, instrument: Instrument) -> Assets:
        """Base and quote, unique too, since clients name a market by them.

        The base is prefixed as the name is, so that the two spell the name of a pair, or further where they are taken.
        """
        self._keep_up()
        return self._assets[instrument.id]

    @property
    def all(self) -> list[tuple[str, Instrument]]:
        """Each instrument once, by its own name."""
        self._keep_up()
        return sorted((name, self._by_name[name]) for name in self._names.values())

    def _keep_up(self) -> None:
        if 0 < self._version == self._registry.version:
            return
        instruments = sorted(self._registry.all, key=lambda one: one.id)
        self._by_name, self._names, self._assets, self._claimed = {}, {}, {}, set()
        for instrument in instruments:
            self._claim(instrument)
        self._version = self._registry.version

    def _claim(self, instrument: Instrument) -> None:
        names = _forms(instrument, plain(instrument))
        free = [name for name in names if name not in self._by_name]
        self._by_name.update(dict.fromkeys(free, instrument))
        self._names[instrument.id] = free[0]
        quote = instrument.quote or NO_CURRENCY
        bases = _forms(instrument, instrument.base or plain(instrument))[names.index(free[0]) :]
        free_bases = (base for base in bases if (base, quote) not in self._claimed)
        self._assets[instrument.id] = next(free_bases, free[0]), quote
        self._claimed.add(self._assets[instrument.id])


def plain(instrument: Instrument) -> str:
    """The letters and digits of the ticker."""
    return _NOT_PLAIN.sub("", instrument.ticker)


def _forms(instrument: Instrument, text: str) -> tuple[str, str, str]:
    prefixed = f"{instrument.source}.{text}"
    return text, prefixed, f"{prefixed}.{instrument.id}"
