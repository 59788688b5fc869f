"""What the simulated exchange lists: a symbol's assets, tick and step size, and the price it starts from.

Tick and step follow from the price as they do in Binance's own listings: 0.01 and 0.00001 for BTCUSDT.
"""

import hashlib
import re
from decimal import Decimal

import msgspec

from app.errors import OperatorError

DOLLARS = {"USDT": "1", "USDC": "1", "FDUSD": "1", "TUSD": "1", "BUSD": "1", "DAI": "1", "USD": "1"}
FIAT = {"EUR": "1.1", "GBP": "1.3", "TRY": "0.03", "BRL": "0.18", "JPY": "0.0067", "AUD": "0.66"}
COINS = {
    "BTC": ("95000", 0.5),
    "ETH": ("3300", 0.65),
    "BNB": ("620", 0.6),
    "SOL": ("185", 0.85),
    "XRP": ("2.4", 0.85),
    "SUI": ("3.4", 1.1),
    "DOGE": ("0.21", 1.0),
    "ADA": ("0.8", 0.9),
    "LTC": ("105", 0.75),
    "LINK": ("19", 0.85),
}
QUOTES = (*DOLLARS, *FIAT, "BTC", "ETH", "BNB")
PLACES = 8
"""Every price and size is printed with this many places, as Binance does."""
TYPICAL_VALUE = 400
"""The median trade is worth about this many dollars."""


class Listing(msgspec.Struct, frozen=True):
    """One symbol: prices in units of the quote asset, sizes of the base asset.

    `volatility` is the standard deviation of a year's log return.
    """

    symbol: str
    base: str
    quote: str
    tick_places: int
    step_places: int
    price: Decimal
    typical_size: Decimal
    volatility: float

    @property
    def tick_size(self) -> Decimal:
        return Decimal(1).scaleb(-self.tick_places)

    @property
    def step_size(self) -> Decimal:
        return Decimal(1).scaleb(-self.step_places)


def listing(symbol: str) -> Listing:
    """The listing of a Binance-like symbol such as BTCUSDT; unknown assets get a price of their own, always the same.

    OperatorError for what is no such symbol.
    """
    base, quote = split(symbol)
    base_price, base_volatility = _asset(base)
    quote_price, quote_volatility = _asset(quote)
    price = round(base_price / quote_price, PLACES)
    magnitude = price.adjusted()
    return Listing(
        symbol=symbol,
        base=base,
        quote=quote,
        tick_places=min(PLACES, max(2, 4 - magnitude)),
        step_places=min(PLACES, max(0, magnitude + 1)),
        price=price,
        typical_size=TYPICAL_VALUE / base_price,
        volatility=(base_volatility**2 + quote_volatility**2) ** 0.5,
    )


def split(symbol: str) -> tuple[str, str]:
    """Base and quote asset of a symbol: the longest known quote that ends it."""
    if re.fullmatch(r"[A-Z0-9]{5,20}", symbol):
        for quote in sorted(QUOTES, key=len, reverse=True):
            if symbol.endswith(quote) and symbol != quote:
                return symbol.removesuffix(quote), quote
    raise OperatorError(
        f"{symbol!r} is no symbol the exchange can list: write it like BTCUSDT, quoted in one of {', '.join(QUOTES)}"
    )


def digest(text: str) -> int:
    """64 bits of a text, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def _asset(asset: str) -> tuple[Decimal, float]:
    """An asset's price in dollars and its volatility against the dollar."""
    if asset in DOLLARS:
        return Decimal(DOLLARS[asset]), 0.01
    if asset in FIAT:
        return Decimal(FIAT[asset]), 0.08
    if asset in COINS:
        price, volatility = COINS[asset]
        return Decimal(price), volatility
    bits = digest(asset)
    return Decimal(100 + bits % 900).scaleb(bits // 900 % 4 - 4), 0.8 + bits % 50 / 100
