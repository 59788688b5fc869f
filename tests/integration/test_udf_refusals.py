"""UDF over a real server: what it refuses and how it says so, its document, and the database going away."""

import asyncio
from itertools import product
from typing import Any

from app.embedded import Server
from app.market.model import Instrument
from tests.databases import Database
from tests.integration.rest import Rest, serving, until_ready
from tests.integration.test_rest_refusals import HOSTILE
from tests.integration.ticks import add_instrument, series, store

RIGHT: dict[str, dict[str, str]] = {
    "config": {},
    "symbols": {"symbol": "BTCUSDT", "currencyCode": "USDT"},
    "search": {"query": "", "type": "", "exchange": "", "limit": "1"},
    "history": {
        "symbol": "BTCUSDT",
        "resolution": "1",
        "from": "0",
        "to": "1",
        "countback": "2",
        "currencyCode": "USDT",
    },
    "quotes": {"symbols": "BTCUSDT"},
    "marks": {"symbol": "BTCUSDT", "resolution": "1", "from": "0", "to": "1"},
    "timescale_marks": {"symbol": "BTCUSDT", "resolution": "1", "from": "0", "to": "1"},
}
"""Each path with all its parameters."""


async def failure(rest: Rest, path: str, query: dict[str, Any]) -> str:
    answer = await rest.ask(f"/udf/{path}", **query)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json"), answer
    assert answer.json["s"] == "error", (path, query, answer)
    assert sorted(answer.json) == ["errmsg", "s"]
    return str(answer.json["errmsg"])


async def test_right_parameters_are_taken(rest: Rest) -> None:
    for path, query in RIGHT.items():
        answer = await rest.ask(f"/udf/{path}", **query)
        assert answer.status == 200
        assert "errmsg" not in answer.json or path == "quotes", (path, answer)


async def test_missing_parameter_is_named(rest: Rest) -> None:
    needed = {"symbols": ("symbol",), "quotes": ("symbols",), "history": ("symbol", "resolution", "to")}
    marks = ("symbol", "resolution", "from", "to")
    for path, names in {**needed, "marks": marks, "timescale_marks": marks}.items():
        for name in names:
            without = {key: value for key, value in RIGHT[path].items() if key != name}
            for query in (without, {**without, name: ""}):
                assert await failure(rest, path, query) == f"{name}: is missing"
    query = {key: value for key, value in RIGHT["history"].items() if key not in ("from", "countback")}
    assert await failure(rest, "history", query) == "from: is missing"


async def test_wrong_parameter_is_named_with_what_would_be_right(rest: Rest) -> None:
    wrong = [
        ("history", {"resolution": "7"}, "resolution: '7' is not one of 1S 1 3 5"),
        ("history", {"to": "1610064000000"}, "to: '1610064000000' is not Unix time in seconds"),
        ("history", {"from": "-1e3"}, "from: '-1e3' is not Unix time in seconds"),
        ("history", {"countback": "-2"}, "countback: '-2' is not a whole number"),
        ("history", {"from": "2", "countback": ""}, "to: is before from"),
        ("history", {"currencyCode": "EUR"}, "currencyCode: is 'EUR', but SIM:BTCUSDT is quoted in USDT"),
        ("symbols", {"currencyCode": "EUR"}, "currencyCode: is 'EUR', but"),
        ("search", {"limit": "0"}, "limit: is 0, but must be at least 1"),
        ("quotes", {"symbols": "A," * 101}, "symbols: are 101, but at most 100"),
        ("marks", {"from": "2"}, "to: is before from"),
    ]
    for path, query, text in wrong:
        assert (await failure(rest, path, {**RIGHT[path], **query})).startswith(text), query


async def test_unknown_symbol_is_an_error_that_names_near_ones(rest: Rest) -> None:
    for path in ("symbols", "history", "marks", "timescale_marks"):
        message = await failure(rest, path, {**RIGHT[path], "symbol": "BTCUSD"})
        assert message == "unknown_symbol: no instrument is called 'BTCUSD'; did you mean SIM:BTCUSDT?"


async def test_ambiguous_ticker_says_which_symbols_it_could_be(any_database: Database) -> None:
    await add_instrument(any_database)
    await add_instrument(any_database, source="BINANCE")
    async with serving(any_database) as rest:
        assert "BINANCE:BTCUSDT, SIM:BTCUSDT" in await failure(rest, "symbols", {"symbol": "BTCUSDT"})


async def test_hostile_text_anywhere_is_answered_in_the_format_and_never_crashes(rest: Rest) -> None:
    texts = [*HOSTILE, "٣٣٣", "-0", "1" * 11, "-" + "9" * 11, "0." + "9" * 20, "Infinity", "BTCUSDT,,", "[1]"]
    for text, (path, right) in product(texts, RIGHT.items()):
        for name in [*right, "unknown"]:
            answer = await rest.ask(f"/udf/{path}", **{**right, name: text})
            assert answer.status == 200, (path, name, text, answer)
            assert answer.json is not None
            if name != "unknown" and isinstance(answer.json, dict) and answer.json.get("s") == "error":
                assert answer.json["errmsg"].startswith((f"{name}: ", "unknown_symbol: ", "to: ")), (
                    path,
                    name,
                    text,
                    answer,
                )


TARGETS = [
    b"/udf/symbols?symbol=%ff%fe",
    b"/udf/symbols?symbol=BTCUSDT&symbol=BTCUSDT",
    b"/udf/symbols?symbol[]=BTCUSDT",
    b"/udf/symbols?%ff=1",
    b"/udf/search?limit=1&limit=2",
    b"/udf/history?symbol=BTCUSDT&resolution=%00&from=0&to=1",
    b"/udf/history?symbol=BTCUSDT&resolution=1&from=%c3%28&to=1",
    b"/udf/history?symbol=BTCUSDT&resolution=1&from=0&to=%F0%9F%92%A5",
    b"/udf/marks?symbol=BTCUSDT&resolution=1&from=0&to=1&to=2",
    b"/udf/quotes?symbols=A&symbols=B",
]


async def test_bytes_that_are_no_text_and_repeated_parameters_are_refused(rest: Rest) -> None:
    for target in TARGETS:
        answer = await rest.send(b"GET " + target + b" HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        assert (answer.status, answer.json["s"]) == (200, "error"), (target, answer)


async def test_other_paths_and_methods_answer_a_problem(rest: Rest) -> None:
    for request, status in ((b"GET /udf/symbol_info?group=SIM", 404), (b"GET /udf", 404), (b"POST /udf/history", 405)):
        answer = await rest.send(request + b" HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")


async def test_every_call_and_parameter_stands_in_the_document(rest: Rest) -> None:
    paths = (await rest.ask("/schema/openapi.json")).json["paths"]
    assert {path for path in paths if path.startswith("/udf")} == {f"/udf/{path}" for path in [*RIGHT, "time"]}
    for path, query in RIGHT.items():
        operation = paths[f"/udf/{path}"]["get"]
        assert [parameter["name"] for parameter in operation.get("parameters", [])] == [*query], path
        assert sorted(operation["responses"]) == ["200", "503"], path
        assert operation["responses"]["503"]["content"]["application/json"]["schema"]["$ref"].endswith("/Failure")
    (history,) = paths["/udf/history"]["get"]["responses"]["200"]["content"].values()
    assert [option["$ref"].rpartition("/")[2] for option in history["schema"]["oneOf"]] == [
        "History",
        "NoHistory",
        "Failure",
    ]


async def test_database_that_is_away_is_told_in_the_format_with_503(
    any_database: Database, any_server: Server, instrument: Instrument, rest: Rest
) -> None:
    await store(any_database, series(instrument, 3), quiet=True)
    await asyncio.to_thread(any_server.stop)
    for path in ("history", "quotes", "marks", "timescale_marks"):
        answer = await rest.ask(f"/udf/{path}", **RIGHT[path])
        assert (answer.status, answer.headers["retry-after"]) == (503, "2"), answer
        assert answer.json == {"s": "error", "errmsg": "the database is away; try again in a moment"}
    for path in ("config", "symbols", "search", "time"):
        assert (await rest.ask(f"/udf/{path}", **RIGHT.get(path, {}))).status == 200
    await asyncio.to_thread(any_server.start)
    await until_ready(rest, 30)
    answer = await rest.ask("/udf/history", **RIGHT["history"])
    assert answer.json == {"s": "no_data"}
