"""Asking a venue how it lists tickers: when ingest starts, and of each that is added while it runs."""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Final

import aiohttp
import structlog

from app.errors import OperatorError
from ingest.instruments import DEFAULT_PRICE_SCALE, Listing
from ingest.rest import read_bounded
from ingest.sources import AccessDenied, GarbageFrame, RequestRefused, TryLater

TIMEOUT: Final = aiohttp.ClientTimeout(total=10)
_log = structlog.get_logger()


class NotListed(OperatorError):
    """The venue was asked, and said clearly that it does not know a ticker."""


async def ask(
    url: str,
    params: Mapping[str, str],
    tickers: Sequence[str],
    read: Callable[[int, bytes], Mapping[str, Listing]],
) -> dict[str, Listing]:
    """How the venue lists these tickers; plain ones, with a warning, where it cannot be asked now.

    `read` is given status and body, and answers what it finds there, or nothing where the venue says that it does not
    know one of the tickers; it raises GarbageFrame, TryLater, RequestRefused or AccessDenied where that is no answer to
    what was asked. Raises NotListed when the venue does not know one of the tickers, and never otherwise.
    """
    try:
        async with (
            aiohttp.ClientSession(timeout=TIMEOUT) as session,
            session.get(url, params=params) as response,
        ):
            listed = read(response.status, await read_bounded(response))
    except (aiohttp.ClientError, OSError, GarbageFrame, TryLater, RequestRefused, AccessDenied) as error:
        _log.warning("listing unknown", address=url, reason=str(error) or type(error).__name__)
        return {ticker: Listing() for ticker in tickers}
    if missing := [ticker for ticker in tickers if ticker not in listed]:
        which = "" if listed else "all of "  # some venues answer with nothing where they do not know one
        raise NotListed(f"the exchange does not list {which}{', '.join(missing)}: check --instruments")
    return {ticker: listed[ticker] for ticker in tickers}


def scale_of(step: Decimal | None) -> int:
    """The decimal places of a price that moves in such steps."""
    if step is None or not step.is_finite() or not step:
        return DEFAULT_PRICE_SCALE
    return max(0, -int(step.normalize().as_tuple().exponent))
