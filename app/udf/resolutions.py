"""Resolutions as TradingView writes them, and the intervals that they are. Pure."""

from typing import Final

from app.market.intervals import Interval

RESOLUTIONS: Final = {
    "1S": Interval.S1,
    "1": Interval.M1,
    "3": Interval.M3,
    "5": Interval.M5,
    "15": Interval.M15,
    "30": Interval.M30,
    "60": Interval.H1,
    "120": Interval.H2,
    "240": Interval.H4,
    "360": Interval.H6,
    "480": Interval.H8,
    "720": Interval.H12,
    "1D": Interval.D1,
    "3D": Interval.D3,
    "1W": Interval.W1,
    "1M": Interval.MONTH,
}
"""Seconds end in S, minutes in nothing; all sixteen intervals."""

SHORT: Final = {"D": Interval.D1, "W": Interval.W1, "M": Interval.MONTH}
"""Other spellings of one day, one week, one month."""

MINUTES: Final = [text for text in RESOLUTIONS if text.isdigit()]
