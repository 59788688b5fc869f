"""The events of Binance's streams as JSON texts: its fields in its order, decimals verbatim.

Times are taken in microseconds since 1970 and told in `unit`s, of so many microseconds each. Symbols, intervals and
decimals hold nothing that JSON would escape.
"""

from collections.abc import Iterable

from app.binance.wire.figures import NO_ID, NOTHING, figures
from app.market.intervals import Interval
from app.market.model import Candle, Ticker, to_micros


def trade(
    symbol: str, trade_id: int, price: str, size: str, time_us: int, buyer_is_maker: bool, event_us: int, unit: int
) -> str:
    return (
        f'{{"e":"trade","E":{event_us // unit},"s":"{symbol}","t":{trade_id},"p":"{price}","q":"{size}",'
        f'"T":{time_us // unit},"m":{"true" if buyer_is_maker else "false"},"M":true}}'
    )


def aggregate_trade(
    symbol: str, trade_id: int, price: str, size: str, time_us: int, buyer_is_maker: bool, event_us: int, unit: int
) -> str:
    """Each trade is its own aggregate."""
    return (
        f'{{"e":"aggTrade","E":{event_us // unit},"s":"{symbol}","a":{trade_id},"p":"{price}","q":"{size}",'
        f'"f":{trade_id},"l":{trade_id},"T":{time_us // unit},"m":{"true" if buyer_is_maker else "false"},"M":true}}'
    )


def kline(symbol: str, interval: Interval, candle: Candle, end_us: int, event_us: int, unit: int) -> str:
    """`end_us` is where the next candle begins."""
    first_id = NO_ID if candle.first_id is None else candle.first_id
    last_id = NO_ID if candle.last_id is None else candle.last_id
    return (
        f'{{"e":"kline","E":{event_us // unit},"s":"{symbol}","k":{{"t":{to_micros(candle.time) // unit},'
        f'"T":{end_us // unit - 1},"s":"{symbol}","i":"{interval}","f":{first_id},"L":{last_id},'
        f'"o":"{candle.open}","c":"{candle.close}","h":"{candle.high}","l":"{candle.low}","v":"{candle.volume}",'
        f'"n":{candle.trades},"x":{"true" if candle.closed else "false"},"q":"{candle.quote_volume}",'
        f'"V":"{candle.taker_buy_volume}","Q":"{candle.taker_buy_quote_volume}","B":"0"}}}}'
    )


def mini_ticker(symbol: str, ticker: Ticker | None, event_us: int, unit: int) -> str:
    """`ticker` is None for an instrument that never traded."""
    known = figures(ticker)
    return (
        f'{{"e":"24hrMiniTicker","E":{event_us // unit},"s":"{symbol}","c":"{known.last}","o":"{known.open}",'
        f'"h":"{known.high}","l":"{known.low}","v":"{known.volume}","q":"{known.quote_volume}"}}'
    )


def ticker(symbol: str, ticker: Ticker | None, start_us: int, event_us: int, unit: int) -> str:
    """`start_us` is where the window of 24 hours begins."""
    known = figures(ticker)
    return (
        f'{{"e":"24hrTicker","E":{event_us // unit},"s":"{symbol}","p":"{known.change}","P":"{known.percent}",'
        f'"w":"{known.average}","x":"{known.previous}","c":"{known.last}","Q":"{known.last_size}",'
        f'"b":"{known.last}","B":"{NOTHING}","a":"{known.last}","A":"{NOTHING}",'
        f'"o":"{known.open}","h":"{known.high}","l":"{known.low}","v":"{known.volume}","q":"{known.quote_volume}",'
        f'"O":{start_us // unit},"C":{event_us // unit},"F":{known.first_id},"L":{known.last_id},"n":{known.trades}}}'
    )


def average_price(symbol: str, price: str, last_us: int, event_us: int, unit: int) -> str:
    """The average price of the last five minutes; `last_us` is the time of the last trade."""
    return f'{{"e":"avgPrice","E":{event_us // unit},"s":"{symbol}","i":"5m","w":"{price}","T":{last_us // unit}}}'


SHUTDOWN_STREAM = "!serverShutdown"
"""The stream that a combined connection is told of its end by; nobody subscribes to it."""


def shutdown(event_us: int, unit: int) -> str:
    """The notice before the server closes a connection."""
    return f'{{"e":"serverShutdown","E":{event_us // unit}}}'


def array(texts: Iterable[str]) -> str:
    """Several tickers as one event: `!miniTicker@arr`."""
    return f"[{','.join(texts)}]"


def combined(stream: str, text: str) -> str:
    """An event, wrapped with the name of its stream."""
    return f'{{"stream":"{stream}","data":{text}}}'
