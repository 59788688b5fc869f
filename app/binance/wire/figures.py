"""The numbers of a ticker as Binance tells them: never null, zero where nothing traded in the window."""

from decimal import Decimal
from typing import Final, NamedTuple

from app.market.model import Ticker, average_of

ZERO: Final = "0"
NO_ID: Final = -1
NOTHING: Final = ZERO
"""The quantity of a bid and an ask: there is no order book, so both stand at the last price and offer nothing."""


class Figures(NamedTuple):
    """`previous` is the price of the last trade before the window."""

    change: str = ZERO
    percent: str = ZERO
    previous: str = ZERO
    last: str = ZERO
    last_size: str = ZERO
    open: str = ZERO
    high: str = ZERO
    low: str = ZERO
    volume: str = ZERO
    quote_volume: str = ZERO
    first_id: int = NO_ID
    last_id: int = NO_ID
    trades: int = 0

    @property
    def average(self) -> str:
        """The average price of the window, weighted by volume."""
        if not self.trades:
            return ZERO
        return average_of(Decimal(self.quote_volume), Decimal(self.volume), Decimal(self.last))


def figures(ticker: Ticker | None) -> Figures:
    """The figures of a window; None is an instrument that never traded."""
    if ticker is None:
        return Figures()
    return Figures(
        ticker.change or ZERO,
        ticker.change_percent or ZERO,
        ticker.previous or ZERO,
        ticker.last,
        ticker.last_size,
        ticker.open or ZERO,
        ticker.high or ZERO,
        ticker.low or ZERO,
        ticker.volume,
        ticker.quote_volume,
        NO_ID if ticker.first_id is None else ticker.first_id,
        NO_ID if ticker.last_id is None else ticker.last_id,
        ticker.trades,
    )
