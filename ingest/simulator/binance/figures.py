"""Sums over trades, printed with the places that Binance prints."""

from collections.abc import Sequence
from decimal import Decimal, localcontext

from app.market.model import EXACT, plain
from ingest.simulator.listing import PLACES
from ingest.simulator.tape import Trade

ZERO = "0.00000000"


def volume(trades: Sequence[Trade]) -> str:
    return places(sum((Decimal(trade.size) for trade in trades), Decimal(0)))


def quote_volume(trades: Sequence[Trade]) -> str:
    """The sum of price times size, rounded once, at the end."""
    with localcontext(EXACT):
        return places(sum((Decimal(trade.price) * Decimal(trade.size) for trade in trades), Decimal(0)))


def places(value: Decimal) -> str:
    with localcontext(EXACT):
        return plain(round(value, PLACES))
