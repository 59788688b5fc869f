"""An exchange ends each connection when it is old: 24 ends in a row, as in 24 days, and nothing is lost."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs

from ingest import feed
from ingest.simulator.exchange import Exchange
from ingest.simulator.misbehaviour import Misbehaviour
from tests.chaos.system import RATE, TICKERS
from tests.chaos.truth import Truth, check_candles, check_ticks, stored, unsettled
from tests.databases import Database
from tests.end_to_end.system import following, running, until

ROLL_OVERS = 24


async def test_exchange_rolls_over_24_times_nothing_is_lost_and_no_gap_is_known(
    any_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A connection counts as healthy soon, so that its successor is dialled at once, as after a day.
    monkeypatch.setattr(feed, "Timing", partial(feed.Timing, healthy=0.2))
    ends = Misbehaviour(max_connection_seconds=0.7, notice_seconds=0.4)
    exchange = Exchange(TICKERS, rate=RATE, seed=3, misbehaviour=ends)
    symbols = [f"SIM:{ticker}" for ticker in TICKERS]
    with capture_logs() as logged:
        await _roll_over(any_database, exchange, symbols, logged)
    sent = check_ticks(Truth(TICKERS, RATE, 3), stored(any_database))
    check_candles(any_database, sent)
    assert unsettled(any_database) == []
    assert any_database.execute("SELECT count(*) FROM market.gaps") == [(0,)]


async def _roll_over(
    database: Database, exchange: Exchange, symbols: list[str], logged: Sequence[Mapping[str, Any]]
) -> None:
    async with (
        running(database, exchange) as system,
        following(system, {"channel": "trades", "symbols": symbols}) as follower,
    ):
        await until(lambda: [entry["event"] for entry in logged].count("rolled over") >= ROLL_OVERS, seconds=60)
        assert [follower.unexplained_jumps(symbol) for symbol in symbols] == [[] for _ in symbols]
        assert follower.events["gap"] == []
