"""What can be subscribed to: one key for each topic. Pure."""

from typing import NamedTuple

from app.market.intervals import Interval
from app.market.model import InstrumentId


class TradesKey(NamedTuple):
    instrument_id: InstrumentId


class CandlesKey(NamedTuple):
    instrument_id: InstrumentId
    interval: Interval
    zone: str


class TickerKey(NamedTuple):
    instrument_id: InstrumentId
    ticker: bool = True


Key = TradesKey | CandlesKey | TickerKey
