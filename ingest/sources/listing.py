"""Asking a venue how it lists tickers, once, when ingest starts."""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Final

import aiohttp
import structlog

from app.errors import OperatorError
from ingest.instruments import DEFAULT_PRICE_SCALE, Listing
from ingest.sources import GarbageFrame, TryLater

TIMEOUT: Final = aiohttp.ClientTimeout(total=10)
_log = structlog.get_logger()


async def ask(
    url: str,
    params: Mapping[str, str],
    tickers: Sequence[str],
    read: Callable[[int, bytes], Mapping[str, Listing]],
) -> dict[str, Listing]:
    """How the venue lists these tickers; plain ones, with a warning, where it cannot be asked now.

    `read` is given status and body, and answers what it finds there; it raises GarbageFrame or TryLater where that is
    no answer. Raises OperatorError when the venue does not know one of the tickers.
    """
    try:
        async with (
            aiohttp.ClientSession(timeout=TIMEOUT) as session,
            session.get(url, params=params) as response,
        ):
            listed = read(response.status, await response.read())
    except (aiohttp.ClientError, TimeoutError, GarbageFrame, TryLater) as error:
        _log.warning("listing unknown", address=url, reason=str(error) or type(error).__name__)
        return {ticker: Listing() for ticker in tickers}
    if missing := [ticker for ticker in tickers if ticker not in listed]:
        which = "" if listed else "all of "  # some venues answer with nothing where they do not know one
        raise OperatorError(f"the exchange does not list {which}{', '.join(missing)}: check --instruments")
    return {ticker: listed[ticker] for ticker in tickers}


def scale_of(step: Decimal | None) -> int:
    """The decimal places of a price that moves in such steps."""
    if step is None or not step.is_finite() or not step:
        return DEFAULT_PRICE_SCALE
    return max(0, -int(step.normalize().as_tuple().exponent))
