"""How the news of topics is written: natively here, otherwise for clients that speak another language. Pure."""

from collections.abc import Iterable
from datetime import datetime
from typing import Final, Literal, NamedTuple, Protocol

from msgspec.structs import asdict

from app.market.model import Candle, Instrument, Trade
from app.market.rolling import RollingDay
from app.stream.keys import CandlesKey
from app.stream.protocol import (
    SNAPSHOT_TRADES,
    CandleEvent,
    CorrectionEvent,
    GapEvent,
    ResetEvent,
    Snapshot,
    TickerEvent,
    TradeEvent,
    encode,
)


class Gap(NamedTuple):
    """Trades of these ids, both inclusive, were not told in their place; the reasons are those of `GapEvent`."""

    from_id: int
    to_id: int
    reason: Literal["missing", "late"]


class Form(Protocol):
    """How a kind of client is told news. One object serves all clients of a kind: a topic writes once for each form.

    None is news that this kind of client is not told.
    """

    @property
    def pace(self) -> int:
        """Seconds between two tellings of an open candle or a ticker, at the clock's multiples; 0: at each flush."""

    @property
    def snapshot_trades(self) -> int:
        """How many past trades a subscription begins with."""

    def trade(self, instrument: Instrument, trade: Trade) -> str: ...

    def gap(self, instrument: Instrument, gap: Gap) -> str | None: ...

    def reset_trades(self, instrument: Instrument) -> str | None:
        """The trade id from which a client wanted to go on is above all."""

    def candle(self, instrument: Instrument, key: CandlesKey, candle: Candle) -> str: ...

    def correction(self, instrument: Instrument, key: CandlesKey, candle: Candle) -> str | None:
        """A past candle changed."""

    def reset_candles(self, instrument: Instrument, key: CandlesKey) -> str | None:
        """Past candles changed, too many or unknown which."""

    def ticker(self, instrument: Instrument, day: RollingDay, now: datetime) -> str | None: ...

    def first_trades(self, instrument: Instrument, trades: list[Trade]) -> str | None:
        """What a subscription begins with."""

    def first_candles(self, instrument: Instrument, key: CandlesKey, candles: list[Candle]) -> str | None:
        """What a subscription begins with: the last closed candle and the open one, as far as there are any."""

    def first_ticker(self, instrument: Instrument, day: RollingDay, now: datetime) -> str | None:
        """What a subscription begins with."""


TradesNews = Trade | Gap


def written(form: Form, instrument: Instrument, news: Iterable[tuple[int, TradesNews]]) -> list[tuple[int, str]]:
    """Trades and gaps with their ids, as far as the form tells of them."""
    texts = (
        (trade_id, form.gap(instrument, one) if isinstance(one, Gap) else form.trade(instrument, one))
        for trade_id, one in news
    )
    return [(trade_id, text) for trade_id, text in texts if text is not None]


class NativeForm:
    """Events of `app.stream.protocol`."""

    pace = 0
    snapshot_trades = SNAPSHOT_TRADES

    def trade(self, instrument: Instrument, trade: Trade) -> str:
        event = TradeEvent(trade.trade_id, trade.time, trade.price, trade.size, trade.side, symbol=instrument.symbol)
        return encode(event)

    def gap(self, instrument: Instrument, gap: Gap) -> str:
        return encode(GapEvent(instrument.symbol, *gap))

    def reset_trades(self, instrument: Instrument) -> str:
        return encode(ResetEvent("trades", instrument.symbol))

    def candle(self, instrument: Instrument, key: CandlesKey, candle: Candle) -> str:
        return _candle(CandleEvent, instrument, key, candle)

    def correction(self, instrument: Instrument, key: CandlesKey, candle: Candle) -> str:
        return _candle(CorrectionEvent, instrument, key, candle)

    def reset_candles(self, instrument: Instrument, key: CandlesKey) -> str:
        return encode(ResetEvent("candles", instrument.symbol, key.interval, key.zone))

    def ticker(self, instrument: Instrument, day: RollingDay, now: datetime) -> str | None:
        ticker = day.ticker(now)
        return encode(TickerEvent(**asdict(ticker), symbol=instrument.symbol)) if ticker else None

    def first_trades(self, instrument: Instrument, trades: list[Trade]) -> str:
        return encode(Snapshot("trades", instrument.symbol, trades=trades))

    def first_candles(self, instrument: Instrument, key: CandlesKey, candles: list[Candle]) -> str:
        return encode(Snapshot("candles", instrument.symbol, key.interval, key.zone, candles=candles))

    def first_ticker(self, instrument: Instrument, day: RollingDay, now: datetime) -> str:
        return encode(Snapshot("ticker", instrument.symbol, ticker=day.ticker(now)))


NATIVE: Final[Form] = NativeForm()


def _candle(event: type[CandleEvent], instrument: Instrument, key: CandlesKey, candle: Candle) -> str:
    return encode(event(**asdict(candle), symbol=instrument.symbol, interval=key.interval, timezone=key.zone))
