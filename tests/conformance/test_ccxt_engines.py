"""ccxt, blocking, over the engines that the other tests of the clients do not run on."""

import ccxt
import pytest

from sql.engine import Engine
from tests.conformance.market import BTC, opened, settled
from tests.conformance.unified import candles, configured, day
from tests.databases import Databases


@pytest.mark.engines("timescaledb", "timescaledb-apache")
def test_sync_client_on_each_engine_gets_the_same(databases: Databases, engine: Engine) -> None:
    with opened(databases, engine) as market:
        client = configured(ccxt.binance, market)
        for timeframe in ("1s", "1m", "1h", "1d", "1M"):
            assert client.fetch_ohlcv(BTC.unified, timeframe) == candles(market, BTC, timeframe)[-500:]
        wanted, got = settled(lambda: day(market, BTC), lambda: client.fetch_ticker(BTC.unified))
        assert {name: got[name] for name in wanted} == wanted
