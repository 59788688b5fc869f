"""What ingest asks of Binance's REST: how its symbols are listed."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Final

import aiohttp
import msgspec
import structlog

from app.errors import OperatorError
from ingest.instruments import Listing

REST_URL: Final = "https://api.binance.com"
INVALID_SYMBOL: Final = -1121
TIMEOUT: Final = aiohttp.ClientTimeout(total=10)
_log = structlog.get_logger()


class _Filter(msgspec.Struct, rename="camel"):
    filter_type: str
    tick_size: str = "0.01"


class _Symbol(msgspec.Struct, rename="camel"):
    symbol: str
    base_asset: str
    quote_asset: str
    filters: list[_Filter]


class _ExchangeInfo(msgspec.Struct):
    symbols: list[_Symbol]


class _Refusal(msgspec.Struct):
    code: int
    msg: str


async def listings(rest_url: str, tickers: Sequence[str]) -> dict[str, Listing]:
    """How the exchange lists these tickers; plain ones, with a warning, where it cannot be asked now.

    Raises OperatorError when the exchange does not know one of them.
    """
    params = {"symbols": msgspec.json.encode(list(tickers)).decode()}
    try:
        async with (
            aiohttp.ClientSession(timeout=TIMEOUT) as session,
            session.get(f"{rest_url}/api/v3/exchangeInfo", params=params) as response,
        ):
            body = await response.read()
        if response.status != 200:
            _refuse(body, tickers)
        symbols = msgspec.json.decode(body, type=_ExchangeInfo).symbols
    except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError) as error:
        _log.warning("listing unknown", address=rest_url, reason=str(error) or type(error).__name__)
        return {ticker: Listing() for ticker in tickers}
    return {symbol.symbol: Listing(symbol.base_asset, symbol.quote_asset, _scale(symbol)) for symbol in symbols}


def _refuse(body: bytes, tickers: Sequence[str]) -> None:
    refusal = msgspec.json.decode(body, type=_Refusal)
    if refusal.code == INVALID_SYMBOL:
        raise OperatorError(f"the exchange does not list all of {', '.join(tickers)}: check --instruments")
    raise aiohttp.ClientError(f"{refusal.msg} (code {refusal.code})")


def _scale(symbol: _Symbol) -> int:
    sizes = [item.tick_size for item in symbol.filters if item.filter_type == "PRICE_FILTER"]
    exponent = Decimal(sizes[0]).normalize().as_tuple().exponent if sizes else -2
    return max(0, -int(exponent))
