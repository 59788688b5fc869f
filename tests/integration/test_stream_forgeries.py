"""Any role may NOTIFY anything, and the stream may fail: neither goes unnoticed, and the first changes nothing."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from app import main
from app.errors import StreamFailed
from app.settings import Settings
from app.stream.service import Stream
from tests.databases import Database
from tests.integration.stream_harness import PATIENCE, Market, serving

NOW = "1610064000310000"


@pytest.fixture
def market(any_database: Database) -> Iterator[Market]:
    made = Market(any_database)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("channel", "payload"),
    [
        ("corrections", "[[{0},-99999999999999999,99999999999999999]]"),
        ("corrections", f"[[{{0}},0,{10**30}]]"),
        ("gaps", '[[{0},1,2,0,-1,"filled"]]'),
        ("gaps", '[[{0},1,2,0,1,"open"]]'),
        ("gaps", "[[{0},1,2,0,1]]"),
        ("gaps", f'[[{{0}},1,2,0,{10**30},"filled"]]'),
        ("ticks", f'[[{{0}},2,{10**18},"1","1",true]]'),
        ("ticks", f'[[{{0}},2,{NOW},"NaN","1",true]]'),
        ("ticks", f'[[{{0}},2,{NOW},"Infinity","1",true]]'),
        ("ticks", f'[[{{0}},2,{NOW},"1E+9999999999999999999999","1",true]]'),
        ("ticks", f'[[{{0}},2,{NOW},"1","-1",true]]'),
        ("ticks", f'[[{{0}},900000000000,{NOW},"1","1",true]]'),
        ("ticks", f'[[{{0}},3,{NOW},"1","1",true],[{{0}},2,{NOW},"1","1",true]]'),
        ("ticks", f'[[{10**12},2,{NOW},"1","1",true]]'),
        ("ticks", f'[[77,2,{NOW},"1","1",true]]'),
        ("ticks", f'[[{{0}},2,{NOW},"1","1",true,' + "[" * 7_000),
        ("ticks", "no json"),
    ],
)
async def test_forged_notification_is_dropped_with_one_warning(
    any_database: Database, market: Market, channel: str, payload: str
) -> None:
    one = market.add("ONE")
    market.trade(one, [1])
    async with serving(any_database) as running, running.client() as client:
        await client.subscribe("trades", "ONE")
        await client.subscribe("candles", "ONE", interval="1m")
        await client.until(lambda event: event["type"] == "snapshot" and event["channel"] == "candles")
        with capture_logs() as logs:
            any_database.execute("SELECT pg_notify(%s, %s)", (channel, payload.replace("{0}", str(one))))
            market.trade(one, [2, 3])
            await client.until_trade(3)
        assert client.trade_ids == [1, 2, 3]
        assert not client.of_type("gap")
        warnings = [log for log in logs if log["log_level"] == "warning"]
        assert [(log["event"], log["channel"]) for log in warnings] == [("notification dropped", channel)]
        assert running.stream.listener.reconnects == 0
        assert running.stream.hub.last.keys() == {one}


async def test_true_leap_and_first_old_ticks_of_a_new_instrument_are_believed(
    any_database: Database, market: Market
) -> None:
    one = market.add("ONE", contiguous=False)
    market.trade(one, [1])
    async with serving(any_database) as running, running.client() as client:
        await client.subscribe("trades", "ONE")
        await client.until_type("snapshot")
        new = market.add("NEW")
        market.trade(new, range(3_000_000_000, 3_000_000_010), at=datetime.now(UTC) - timedelta(days=3))
        market.trade(one, [900_000_000_000, 900_000_000_001])
        await client.until_trade(900_000_000_001)
        assert client.trade_ids == [1, 900_000_000_000, 900_000_000_001]
        assert running.stream.hub.last_id(new) == 3_000_000_009  # type: ignore[arg-type]


async def test_server_whose_stream_fails_shuts_down_and_says_so(
    any_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = asyncio.Event()

    async def run(stream: Stream) -> None:
        stream.listener.live.set()
        await failing.wait()
        raise RuntimeError("for a test")

    monkeypatch.setattr(Stream, "run", run)
    with capture_logs() as logs:
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(StreamFailed):
                await main.serve_on(main.bind("127.0.0.1", 0), Settings(dsn=any_database.app), lambda _: failing.set())
    assert [log["event"] for log in logs if log["log_level"] == "error"] == ["stream failed"]
