"""REST over a real server: what it refuses and how it says so, probes, and the database going away."""

import asyncio
from itertools import product
from urllib.parse import quote

from app.embedded import Server
from app.market.model import Instrument
from tests.databases import Database
from tests.integration.rest import Rest, serving, until_ready
from tests.integration.ticks import add_instrument, series, store


async def test_unknown_symbol_answers_near_matches(any_database: Database, rest: Rest) -> None:
    for path in ("candles", "ticks", "ticker", "price", "instruments", "gaps"):
        problem = await rest.problem(f"/{path}/BTCUSD")
        assert (problem["status"], problem["near"]) == (404, ["SIM:BTCUSDT"])
        assert "did you mean SIM:BTCUSDT?" in problem["detail"]


async def test_ambiguous_ticker_says_which_symbols_it_could_be(any_database: Database) -> None:
    await add_instrument(any_database)
    await add_instrument(any_database, source="BINANCE")
    async with serving(any_database) as rest:
        problem = await rest.problem("/candles/BTCUSDT")
        assert problem["status"] == 400
        assert problem["errors"][0]["field"] == "symbol"
        assert "BINANCE:BTCUSDT, SIM:BTCUSDT" in problem["detail"]
        assert (await rest.get("/candles/SIM:BTCUSDT"))["candles"] == []


WRONG: list[tuple[str, dict[str, str], str, str]] = [
    ("candles", {"interval": "7m"}, "interval", "1s 1m 3m 5m"),
    ("candles", {"intervall": "1m"}, "intervall", "there are: end, fill, interval"),
    ("candles", {"limit": "0"}, "limit", "between 1 and 5000"),
    ("candles", {"limit": "5001"}, "limit", "between 1 and 5000"),
    ("candles", {"limit": "many"}, "limit", "whole number"),
    ("candles", {"start": "noon"}, "start", "ISO 8601"),
    ("candles", {"start": "2024-01-02", "end": "2024-01-01"}, "end", "before start"),
    ("candles", {"timezone": "Europe/Berlin"}, "timezone", "1d 3d 1w 1M alone"),
    ("candles", {"timezone": "Moon/Sea", "interval": "1d"}, "timezone", "Europe/Berlin"),
    ("candles", {"fill": "next"}, "fill", "previous"),
    ("ticks", {"limit": "10001"}, "limit", "between 1 and 10000"),
    ("ticks", {"after_id": "-1"}, "after_id", "0"),
    ("ticks", {"cursor": "x"}, "cursor", "next"),
    ("price", {"at": "1969-12-31"}, "at", "between 1970 and 2262"),
    ("gaps", {"state": "lost"}, "state", "unfillable"),
    ("ticker", {"at": "now"}, "at", "there are: none"),
    ("instruments", {"x": "1"}, "x", "there are: none"),
]
"""A path, what is asked, the parameter that is wrong, and a word of what would be right."""


async def test_wrong_parameter_is_named_with_what_would_be_right(rest: Rest) -> None:
    for path, query, field, hint in WRONG:
        problem = await rest.problem(f"/{path}/BTCUSDT", **query)
        assert problem["status"] == 400, query
        assert [error["field"] for error in problem["errors"]] == [field], query
        assert hint in problem["detail"], query


HOSTILE = [
    "'; DROP TABLE market.ticks; --",
    "1' OR '1'='1",
    "%00",
    "a\x00b",
    "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
    "9" * 30,
    "9" * 5000,
    "-" + "9" * 400,
    "1e400",
    "NaN",
    "../../etc/passwd",
    "{}",
    "${jndi:x}",
    "x" * 8000,
    "\u202e\U0001f4a5",
    "",
]


async def test_hostile_text_anywhere_is_refused_as_a_problem_and_never_crashes(rest: Rest) -> None:
    known = {
        "candles": ("interval", "start", "end", "limit", "timezone", "fill", "unknown"),
        "ticks": ("start", "end", "after_id", "cursor", "limit"),
        "price": ("at",),
        "gaps": ("state", "after_id", "limit"),
    }
    for text, (path, names) in product(HOSTILE, known.items()):
        answer = await rest.ask(f"/api/v1/{path}/" + quote(text or " ", safe=""))
        assert answer.status in (400, 404), (path, text, answer)
        assert answer.headers["content-type"] == "application/problem+json"
        for name in names:
            query = {name: text} | ({"interval": "1d"} if name == "timezone" else {})
            answer = await rest.ask(f"/api/v1/{path}/BTCUSDT", None, **query)
            if answer.status == 200:  # a huge id is an id
                assert (name, text) in {("after_id", "9" * 30), ("cursor", "")}, (name, answer)
                continue
            assert answer.status == 400, (path, name, text, answer)
            assert answer.json["errors"], (path, name, text, answer)


TARGETS = [
    b"/api/v1/candles/%ff%fe",
    b"/api/v1/candles/BTCUSDT?interval=%ff%fe",
    b"/api/v1/candles/BTCUSDT?start=%c3%28",
    b"/api/v1/candles/BTCUSDT?%ff=1",
    b"/api/v1/candles/BTCUSDT?limit=%00",
    b"/api/v1/candles/BTCUSDT?limit=1&limit=2",
    b"/api/v1/candles/BTCUSDT?interval=1m&interval=7m",
    b"/api/v1/ticks/%2e%2e%2f%2e%2e%2fetc",
    b"/api/v1/ticks/BTCUSDT?cursor=%F0%9F%92%A5",
    b"/api/v1/candles/\xff\xfe",
    b"/api/v1/nothing",
    b"/api/v1/candles",
    b"/api/v1/candles/",
]


async def test_bytes_that_are_no_text_are_refused_and_never_crash(rest: Rest) -> None:
    for target in TARGETS:
        answer = await rest.send(b"GET " + target + b" HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        assert answer.status in (400, 404), (target, answer)


async def test_method_that_is_not_allowed_answers_a_problem(rest: Rest) -> None:
    answer = await rest.send(b"POST /api/v1/candles/BTCUSDT HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
    assert (answer.status, answer.headers["content-type"]) == (405, "application/problem+json")


# Operations


async def test_probes_metrics_and_schema_answer(rest: Rest) -> None:
    assert (await rest.ask("/livez")).json == {"status": "alive"}
    assert (await rest.ask("/readyz")).json == {"ready": True, "database": True, "listener": True}
    assert b"tickwick_listener_live 1.0" in (await rest.ask("/metrics")).body
    schema = (await rest.ask("/schema/openapi.json")).json
    assert {path for path in schema["paths"] if path.startswith("/api/v1/")} == {
        "/api/v1/instruments",
        "/api/v1/instruments/{symbol}/tracking",
        *(f"/api/v1/{name}/{{symbol}}" for name in ("candles", "ticks", "ticker", "price", "instruments", "gaps")),
    }


async def test_server_answers_503_while_the_database_is_stopped_and_recovers(
    any_database: Database, any_server: Server, instrument: Instrument, rest: Rest
) -> None:
    await store(any_database, series(instrument, 3), quiet=True)
    assert len((await rest.get("/ticks/BTCUSDT"))["ticks"]) == 3
    await asyncio.to_thread(any_server.stop)
    problem = await rest.problem("/candles/BTCUSDT")
    assert (problem["status"], problem["detail"]) == (503, "the database is away; try again in a moment")
    answer = await rest.ask("/api/v1/ticker/BTCUSDT")
    assert (answer.status, answer.headers["retry-after"]) == (503, "2")
    ready = await rest.ask("/readyz")
    assert (ready.status, ready.json["database"]) == (503, False)
    assert (await rest.ask("/livez")).status == 200
    assert (await rest.ask("/api/v1/instruments")).status == 200
    await asyncio.to_thread(any_server.start)
    await until_ready(rest, 30)
    assert len((await rest.get("/ticks/BTCUSDT"))["ticks"]) == 3


async def test_server_recovers_from_ended_connections(
    any_database: Database, instrument: Instrument, rest: Rest
) -> None:
    await store(any_database, series(instrument, 3), quiet=True)
    assert await rest.get("/ticks/BTCUSDT")
    assert any_database.terminate("tickwick serve") >= 1
    assert len((await rest.get("/ticks/BTCUSDT"))["ticks"]) == 3
