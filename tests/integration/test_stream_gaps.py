"""Gaps that are closed, told by the database: clients hear `gap`, then `correction`, and agree with REST."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest

from app.market.intervals import Interval, bucket_of
from tests.databases import Database
from tests.integration.stream_harness import Client, Event, Market, Running, eventually, serving

AT = bucket_of(datetime.now(UTC), Interval.M1) - timedelta(minutes=5)


@pytest.fixture
def market(any_database: Database) -> Iterator[Market]:
    made = Market(any_database)
    yield made
    made.close()


def open_gap(database: Database, instrument_id: int, from_id: int, to_id: int) -> None:
    database.execute(
        "INSERT INTO market.gaps (instrument_id, from_id, to_id, from_time, to_time) VALUES (%s, %s, %s, %s, %s)",
        (instrument_id, from_id, to_id, AT, AT + timedelta(minutes=2)),
    )


def close_gap(database: Database, state: str, reason: str | None = None) -> None:
    database.execute("UPDATE market.gaps SET state = %s, reason = %s, closed_at = now()", (state, reason))


def fill(database: Database, market: Market, instrument_id: int, ids: range) -> None:
    """As a repair does: the ticks without a word of them, then that the gap is filled."""
    database.execute("ALTER TABLE market.ticks DISABLE TRIGGER announce")
    market.trade(instrument_id, ids, at=AT + timedelta(minutes=1), price="99.00")
    database.execute("ALTER TABLE market.ticks ENABLE TRIGGER announce")
    close_gap(database, "filled")


def told(client: Client) -> list[tuple[Any, ...]]:
    return [(gap["from_id"], gap["to_id"], gap["reason"]) for gap in client.of_type("gap")]


async def missing_some(database: Database, market: Market, client: Client, one: int) -> None:
    """A client of trades and candles is told that 4..9 are missing, and that the candle before is incomplete."""
    market.trade(one, [1, 2, 3], at=AT)
    await client.subscribe("candles", "ONE", interval="1m")
    await client.subscribe("trades", "ONE")
    await client.until(lambda event: event["type"] == "snapshot" and event["channel"] == "trades")
    open_gap(database, one, 4, 9)
    market.trade(one, [10, 11, 12], at=AT + timedelta(minutes=2))
    market.trade(one, [13], at=AT + timedelta(minutes=3))
    await client.until_trade(13)
    assert client.of_type("correction") or await client.until_type("correction")


async def rest(running: Running) -> dict[str, Event]:
    answer = await running.get("/api/v1/candles/TEST:ONE?interval=1m")
    return {candle["time"]: candle for candle in answer["candles"]}


async def test_filled_gap_is_told_before_its_candles_are_corrected_to_complete(
    any_database: Database, market: Market
) -> None:
    one = market.add("ONE")
    async with serving(any_database) as running, running.client() as client:
        await missing_some(any_database, market, client, one)
        before = len(client.events)
        fill(any_database, market, one, range(4, 10))
        while len(client.of_type("correction")) < 4:
            await client.until_type("correction")
        kinds = [event["type"] for event in client.events[before:] if event["type"] in ("gap", "correction")]
        assert kinds == ["gap", "correction", "correction", "correction"]
        assert told(client) == [(4, 9, "missing"), (4, 9, "late")]
        truth = await rest(running)
        for correction in client.of_type("correction")[1:]:
            assert correction["complete"]
            assert {name: correction[name] for name in truth[correction["time"]]} == truth[correction["time"]]
        await client.subscribe("trades", "ONE", since={"ONE": 3})
        again = len(client.events)
        await client.until_trade(13)
        assert [event["trade_id"] for event in client.events[again:] if event["type"] == "trade"] == [*range(4, 14)]
        gaps = (await running.get("/api/v1/gaps/TEST:ONE"))["gaps"]
        assert [(gap["from_id"], gap["state"], gap["reason"]) for gap in gaps] == [(4, "filled", None)]


async def test_unfillable_gap_changes_nothing_but_says_why(any_database: Database, market: Market) -> None:
    one = market.add("ONE")
    async with serving(any_database) as running, running.client() as client:
        await missing_some(any_database, market, client, one)
        corrected = client.of_type("correction")
        assert [event["complete"] for event in corrected] == [False], "the candle of the snapshot, once the hole showed"
        close_gap(any_database, "unfillable", "the venue has them no longer")
        market.trade(one, [14], at=AT + timedelta(minutes=3))
        await client.until_trade(14)
        assert told(client) == [(4, 9, "missing")]
        assert client.of_type("correction") == corrected
        closed = [event for event in client.of_type("candle") if event["closed"]]
        truth = await rest(running)
        assert {event["time"]: event["complete"] for event in closed} == {
            time: candle["complete"] for time, candle in truth.items() if time in {event["time"] for event in closed}
        }
        assert not any(event["complete"] for event in closed)
        (gap,) = (await running.get("/api/v1/gaps/TEST:ONE?state=unfillable"))["gaps"]
        assert gap["reason"] == "the venue has them no longer"
        # A later repair by hand finds them after all.
        any_database.execute("UPDATE market.gaps SET state = 'open', reason = NULL, closed_at = NULL")
        fill(any_database, market, one, range(4, 10))
        await client.until(lambda event: event["type"] == "gap")
        assert told(client)[-1] == (4, 9, "late")


async def test_gap_filled_while_the_listener_was_away_is_told_when_it_is_back(
    any_database: Database, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.stream.listener.RETRY_SECONDS", 0.5)
    one = market.add("ONE")
    async with serving(any_database) as running, running.client() as client:
        await missing_some(any_database, market, client, one)
        any_database.terminate("tickwick listener")
        await eventually(lambda: not running.stream.hub.live)
        fill(any_database, market, one, range(4, 10))
        await client.until(lambda event: event["type"] == "gap" and event["reason"] == "late")
        assert told(client) == [(4, 9, "missing"), (4, 9, "late")]
        assert client.of_type("reset") or await client.until_type("reset")


async def test_forged_word_of_a_filled_gap_tells_nobody(any_database: Database, market: Market) -> None:
    one = market.add("ONE")
    async with serving(any_database) as running, running.client() as client:
        await missing_some(any_database, market, client, one)
        any_database.execute("SELECT pg_notify('gaps', %s)", (f'[[{one},4,9,0,1,"filled"]]',))
        hub = running.stream.hub
        await eventually(lambda: not any(getattr(topic, "doubted", False) for topic in hub.topics))
        market.trade(one, [14], at=AT + timedelta(minutes=3))
        await client.until_trade(14)
        assert told(client) == [(4, 9, "missing")]
        fill(any_database, market, one, range(4, 10))
        await client.until(lambda event: event["type"] == "gap" and event["reason"] == "late")
        assert told(client)[1:] == [(4, 9, "late")]


async def test_metrics_tell_of_lag_gaps_tasks_and_memory(any_database: Database, market: Market) -> None:
    one = market.add("ONE")
    async with serving(any_database) as running, running.client() as client:
        await client.subscribe("trades", "ONE")
        await client.until_type("snapshot")
        market.trade(one, [1, 3])
        await client.until_trade(3)
        page = await _text(running, "/metrics")
        values = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
        assert float(values["tickwick_stream_lag_seconds_count"]) == 1
        assert float(values['tickwick_stream_lag_seconds_bucket{le="+Inf"}']) == 1
        assert 0 <= float(values["tickwick_stream_lag_seconds_sum"]) < 60
        assert float(values["tickwick_stream_gaps_total"]) == 1
        assert float(values["tickwick_tasks"]) >= 5
        assert float(values["process_resident_memory_bytes"]) > 1e7


async def _text(running: Running, path: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(running.url + path) as response:
        return await response.text()
