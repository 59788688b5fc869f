"""What the calls of `/api/v3` answer, for the OpenAPI document: the bodies themselves are the rows of `wire.rows`."""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

Kline = list[int | str]
"""Open time, open, high, low, close, volume, close time, quote volume, trades, taker's volume, its quote volume, 0."""


class Body(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """An object whose fields are named as Binance names them, and no others."""


class Nothing(Body):
    """An empty object."""


class Time(Body):
    server_time: int


class RateLimit(Body):
    rate_limit_type: str
    interval: str
    interval_num: int
    limit: int


class Symbol(Body):
    """The symbol is `baseAsset` + `quoteAsset` where the instrument is a pair."""

    symbol: str
    status: str
    base_asset: str
    base_asset_precision: int
    quote_asset: str
    quote_precision: int
    quote_asset_precision: int
    base_commission_precision: int
    quote_commission_precision: int
    order_types: list[str]
    iceberg_allowed: bool
    oco_allowed: bool
    oto_allowed: bool
    opo_allowed: bool
    quote_order_qty_market_allowed: bool
    allow_trailing_stop: bool
    cancel_replace_allowed: bool
    amend_allowed: bool
    peg_instructions_allowed: bool
    is_spot_trading_allowed: bool
    is_margin_trading_allowed: bool
    filters: list[dict[str, Any]]
    permissions: list[str]
    permission_sets: list[list[str]]
    default_self_trade_prevention_mode: str
    allowed_self_trade_prevention_modes: list[str]


class ExchangeInfo(Body):
    timezone: str
    server_time: int
    rate_limits: list[RateLimit]
    exchange_filters: list[dict[str, Any]]
    symbols: list[Symbol]


class Trade(Body):
    id: int
    price: str
    qty: str
    quote_qty: str
    time: int
    is_buyer_maker: bool
    is_best_match: bool


class AggregateTrade(Body):
    a: int
    p: str
    q: str
    f: int
    l: int  # noqa: E741  # its name
    T: int
    m: bool
    M: bool


class AveragePrice(Body):
    mins: int
    price: str
    close_time: int


class Ticker(Body, kw_only=True):
    """What MINI leaves out is optional; the prices of the book and the one before come with 24 hours alone."""

    symbol: str
    price_change: str | UnsetType = UNSET
    price_change_percent: str | UnsetType = UNSET
    weighted_avg_price: str | UnsetType = UNSET
    prev_close_price: str | UnsetType = UNSET
    last_price: str
    last_qty: str | UnsetType = UNSET
    bid_price: str | UnsetType = UNSET
    bid_qty: str | UnsetType = UNSET
    ask_price: str | UnsetType = UNSET
    ask_qty: str | UnsetType = UNSET
    open_price: str
    high_price: str
    low_price: str
    volume: str
    quote_volume: str
    open_time: int
    close_time: int
    first_id: int
    last_id: int
    count: int


class Price(Body):
    symbol: str
    price: str


class Book(Body):
    symbol: str
    bid_price: str
    bid_qty: str
    ask_price: str
    ask_qty: str
