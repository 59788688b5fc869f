"""Coinbase Exchange's public REST, as far as ingest uses it: products, and their trades by cursor.

The limit is the documented one, 10 requests a second with bursts of 15, for all clients together.
"""

from collections.abc import Awaitable, Callable, Mapping

import msgspec
from aiohttp import web

from app.market.model import plain
from ingest.simulator.coinbase.frames import iso, product_id, side
from ingest.simulator.listing import Listing
from ingest.simulator.market import SECOND
from ingest.simulator.tape import Tape, Trade

RATE = 10
BURST = 15
MAX_LIMIT = 1000


class Refused(Exception):  # answered, not raised to a user
    """An answer in Coinbase's form: a status and a message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Bucket:
    """The requests that may be made now: BURST at most, RATE more each second of the clock."""

    def __init__(self) -> None:
        self._tokens = float(BURST)
        self._at_us = 0

    def take(self, now_us: int) -> bool:
        """Whether a request may be made; a clock that was put back gives nothing."""
        self._tokens = min(BURST, self._tokens + max(0, now_us - self._at_us) * RATE / SECOND)
        self._at_us = now_us
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class CoinbaseRest:
    """`/products` over the tapes. `clock` is the exchange's, `traded_until` what the tapes are asked with."""

    def __init__(self, tapes: Mapping[str, Tape], clock: Callable[[], int], traded_until: Callable[[], int]) -> None:
        self._tapes = {product_id(tape.listing): tape for tape in tapes.values()}
        self._clock = clock
        self._traded_until = traded_until
        self._bucket = Bucket()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/products", self._guarded(self._list)),
            web.get("/products/{product}", self._guarded(self._product)),
            web.get("/products/{product}/trades", self._guarded(self._trades)),
        ]

    def _guarded(
        self, handler: Callable[[web.Request], tuple[object, dict[str, str]]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            status = 200
            headers: dict[str, str] = {}
            try:
                if not self._bucket.take(self._clock()):
                    raise Refused(429, "Public rate limit exceeded")
                body, headers = handler(request)
            except Refused as refusal:
                status, body = refusal.status, {"message": str(refusal)}
            return web.Response(
                status=status, headers=headers, body=msgspec.json.encode(body), content_type="application/json"
            )

        return handle

    def _list(self, request: web.Request) -> tuple[object, dict[str, str]]:
        return [_product_row(tape.listing) for tape in self._tapes.values()], {}

    def _product(self, request: web.Request) -> tuple[object, dict[str, str]]:
        return _product_row(self._tape(request).listing), {}

    def _trades(self, request: web.Request) -> tuple[object, dict[str, str]]:
        """Newest first: of ids below `after`, of ids above `before` (those next to it), of both between them."""
        tape = self._tape(request)
        limit = min(_integer(request.query, "limit") or MAX_LIMIT, MAX_LIMIT)
        before, after = _integer(request.query, "before"), _integer(request.query, "after")
        until = tape.now_us(self._traded_until())
        end = tape.id_at(until + 1)
        end = end if after is None else min(after, end)
        if before is None:
            page = tape.before(end, limit)
        else:
            page = [trade for trade in tape.trades(before + 1, limit, until) if trade.id < end]
        page.reverse()
        headers = {"CB-BEFORE": str(page[0].id), "CB-AFTER": str(page[-1].id)} if page else {}
        return [_trade_row(trade) for trade in page], headers

    def _tape(self, request: web.Request) -> Tape:
        if (product := request.match_info["product"]) not in self._tapes:
            raise Refused(404, "NotFound")
        return self._tapes[product]


def _integer(query: Mapping[str, str], name: str) -> int | None:
    if name not in query:
        return None
    if not (query[name].isascii() and query[name].isdigit() and len(query[name]) < 20):
        raise Refused(400, "limit is not valid" if name == "limit" else f"{name} cursor value is not valid")
    return int(query[name])


def _trade_row(trade: Trade) -> dict[str, object]:
    return {
        "trade_id": trade.id,
        "side": side(trade),
        "size": trade.size,
        "price": trade.price,
        "time": iso(trade.time_us),
    }


def _product_row(listing: Listing) -> dict[str, object]:
    return {
        "id": product_id(listing),
        "base_currency": listing.base,
        "quote_currency": listing.quote,
        "quote_increment": plain(listing.tick_size),
        "base_increment": plain(listing.step_size),
        "display_name": product_id(listing),
        "min_market_funds": "1",
        "margin_enabled": False,
        "post_only": False,
        "limit_only": False,
        "cancel_only": False,
        "status": "online",
        "status_message": "",
        "trading_disabled": False,
        "fx_stablecoin": False,
        "max_slippage_percentage": "0.02000000",
        "auction_mode": False,
        "high_bid_limit_percentage": "",
    }
