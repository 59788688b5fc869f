"""Candles computed from ticks by other means than the product's: sorting, fractions, and a calendar of its own."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta, tzinfo
from fractions import Fraction

from app.market.model import Tick

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LENGTHS = {"1s": 1, "1m": 60, "3m": 180, "5m": 300, "15m": 900, "30m": 1800} | {
    f"{hours}h": hours * 3600 for hours in (1, 2, 4, 6, 8, 12)
}
INTERVALS = [*LENGTHS, "1d", "3d", "1w", "1M"]

Row = tuple[datetime, str, str, str, str, str, str, int, str, str, int, int]
"""The twelve columns of a candle, in their order, prices and sums as the digits that PostgreSQL prints."""


def reckon(ticks: Iterable[Tick], interval: str, zone: tzinfo = UTC) -> list[Row]:
    """The candles of all ticks, ascending; a tick that comes twice counts once."""
    start = bucket_starts(interval, zone)
    buckets: dict[datetime, dict[tuple[int, int], Tick]] = defaultdict(dict)
    for tick in ticks:
        moment = EPOCH + timedelta(microseconds=tick.time_us)
        buckets[start(moment)].setdefault((tick.time_us, tick.trade_id), tick)
    return [_candle(bucket, list(found.values())) for bucket, found in sorted(buckets.items())]


def bucket_starts(interval: str, zone: tzinfo) -> Callable[[datetime], datetime]:
    if length := LENGTHS.get(interval):
        return lambda moment: datetime.fromtimestamp(moment.timestamp() // length * length, UTC)
    return lambda moment: _first_instant(_first_date(moment.astimezone(zone).date(), interval), zone)


def _first_date(day: date, interval: str) -> date:
    if interval == "3d":
        return date.fromordinal(day.toordinal() - (day.toordinal() - date(1970, 1, 1).toordinal()) % 3)
    if interval == "1w":
        return date.fromisocalendar(*day.isocalendar()[:2], 1)
    return date(day.year, day.month, 1) if interval == "1M" else day


def _first_instant(day: date, zone: tzinfo) -> datetime:
    """The first second at which the zone's calendar shows the day, by bisection."""
    low = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) - 2 * 86400
    high = low + 4 * 86400
    while low + 1 < high:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, zone).date() >= day:
            high = middle
        else:
            low = middle
    return datetime.fromtimestamp(high, UTC)


def _candle(bucket: datetime, ticks: list[Tick]) -> Row:
    ticks = sorted(ticks, key=lambda tick: tick.trade_id)
    prices = [tick.price for tick in ticks]
    bought = [tick for tick in ticks if tick.buyer_is_maker is False]
    return (
        bucket,
        str(prices[0]),
        str(max(prices)),
        str(min(prices)),
        str(prices[-1]),
        _sum(ticks, quote=False),
        _sum(ticks, quote=True),
        len(ticks),
        _sum(bought, quote=False),
        _sum(bought, quote=True),
        ticks[0].trade_id,
        ticks[-1].trade_id,
    )


def _sum(ticks: list[Tick], *, quote: bool) -> str:
    """Sizes, or prices times sizes, with as many places as the longest of them has."""
    total, places = Fraction(0), 0
    for tick in ticks:
        total += Fraction(tick.size) * (Fraction(tick.price) if quote else 1)
        places = max(places, _places(tick.size) + (_places(tick.price) if quote else 0))
    digits = str(int(total * 10**places)).rjust(places + 1, "0")
    return f"{digits[:-places]}.{digits[-places:]}" if places else digits


def _places(value: object) -> int:
    return len(str(value).partition(".")[2])
