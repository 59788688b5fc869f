"""The instruments in memory, and how a symbol finds its own."""

import asyncio
from collections.abc import Iterable
from difflib import get_close_matches

from app.errors import DatabaseUnavailable, InvalidParameter, UnknownSymbol
from app.market.model import Instrument


class Registry:
    """All instruments; replaced as a whole when one changes, so that a reader never sees half of it.

    Until they are read for the first time, all who ask get DatabaseUnavailable: no symbol is unknown before that.
    """

    def __init__(self) -> None:
        self.version = 0
        """Rises whenever an instrument may have changed."""
        self._changed = asyncio.Event()
        self._by_symbol: dict[str, Instrument] = {}
        self._by_ticker: dict[str, list[Instrument]] = {}

    def replace(self, instruments: Iterable[Instrument]) -> None:
        by_symbol = {instrument.symbol: instrument for instrument in instruments}
        by_ticker: dict[str, list[Instrument]] = {}
        for instrument in by_symbol.values():
            by_ticker.setdefault(instrument.ticker, []).append(instrument)
        self._by_symbol, self._by_ticker = by_symbol, by_ticker
        self.version += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def change(self, since: int) -> None:
        """Wait until the version is another one than `since`."""
        while self.version == since:
            await self._changed.wait()

    @property
    def filled(self) -> bool:
        return self.version > 0

    @property
    def all(self) -> list[Instrument]:
        """By symbol."""
        self._check()
        return list(self._by_symbol.values())

    def find(self, symbol: str) -> Instrument:
        """The instrument of a symbol in any case, or of a bare ticker where one source alone has it.

        Raises UnknownSymbol with near matches, and InvalidParameter where several sources have the ticker.
        """
        if instrument := self.get(symbol):
            return instrument
        raise UnknownSymbol(symbol, self._near(symbol.upper()))

    def get(self, symbol: str) -> Instrument | None:
        """As `find`, but None where it is unknown: without near matches, which take milliseconds to find."""
        self._check()
        wanted = symbol.upper()
        if instrument := self._by_symbol.get(wanted):
            return instrument
        candidates = self._by_ticker.get(wanted, [])
        if len(candidates) > 1:
            choices = ", ".join(instrument.symbol for instrument in candidates)
            raise InvalidParameter("symbol", f"{symbol!r} is quoted by several sources; say which: {choices}")
        return candidates[0] if candidates else None

    def _check(self) -> None:
        if not self.filled:
            raise DatabaseUnavailable("the instruments have not been read yet")

    def _near(self, wanted: str) -> list[str]:
        near = get_close_matches(wanted, [*self._by_symbol, *self._by_ticker], n=5, cutoff=0.6)
        symbols = [match if match in self._by_symbol else self._by_ticker[match][0].symbol for match in near]
        return list(dict.fromkeys(symbols))
