"""`/api/v3` over a real server: what it refuses and how, the weight that all pay, and the database going away."""

import asyncio
from itertools import product
from typing import Any

from app.embedded import Server
from app.market.model import Instrument
from tests.databases import Database
from tests.integration.binance_rest import USED, ask, begin_minute, get, refusal
from tests.integration.rest import Answer, Rest, serving, until_ready
from tests.integration.ticks import add_instrument, series, store

BTC = {"symbol": "BTCUSDT"}
MINUTES = {**BTC, "interval": "1m"}
NEED_SYMBOL = ("klines", "uiKlines", "trades", "historicalTrades", "aggTrades", "avgPrice")
OF_MANY = ("ticker/price", "ticker/bookTicker", "ticker/24hr", "ticker", "exchangeInfo")
CALLS = ("ping", "time", *NEED_SYMBOL, *OF_MANY)

WRONG: list[tuple[str, dict[str, str], int, str]] = [
    ("klines", {**MINUTES, "from": "1"}, -1101, "Too many parameters; expected '2' and received '3'."),
    ("ping", {"x": "1"}, -1101, "Too many parameters; expected '0' and received '1'."),
    ("klines", {"symbol": "", "interval": "1m"}, -1102, "'symbol'"),
    ("klines", {**BTC, "interval": ""}, -1102, "'interval'"),
    ("klines", BTC, -1102, "'interval'"),
    ("klines", {"symbol": "BTC/USDT", "interval": "1m"}, -1100, "'symbol'"),
    ("klines", {"symbol": "btcusdt", "interval": "1m"}, -1100, "'symbol'"),
    ("klines", {"symbol": "NOSUCH", "interval": "1m"}, -1121, "Invalid symbol."),
    ("klines", {**BTC, "interval": "7m"}, -1120, "Invalid interval."),
    ("klines", {**BTC, "interval": "1D"}, -1120, "Invalid interval."),
    ("klines", {**MINUTES, "limit": ""}, -1105, "'limit'"),
    ("klines", {**MINUTES, "limit": "0"}, -1130, "'limit'"),
    ("klines", {**MINUTES, "limit": "-1"}, -1100, "'limit'"),
    ("klines", {**MINUTES, "limit": "1.5"}, -1100, "'limit'"),
    ("klines", {**MINUTES, "limit": "\u0661"}, -1100, "'limit'"),
    ("klines", {**MINUTES, "startTime": "2024-01-01"}, -1100, "'startTime'"),
    ("klines", {**MINUTES, "endTime": "-1"}, -1100, "'endTime'"),
    ("klines", {**MINUTES, "endTime": "9" * 21}, -1100, "'endTime'"),
    ("klines", {**MINUTES, "timeZone": "14:01"}, -1130, "'timeZone'"),
    ("klines", {**MINUTES, "timeZone": "-12:01"}, -1130, "'timeZone'"),
    ("klines", {**MINUTES, "timeZone": "Europe/Berlin"}, -1130, "'timeZone'"),
    ("trades", {**BTC, "fromId": "1"}, -1101, "Too many parameters"),
    ("historicalTrades", {**BTC, "fromId": str(2**63)}, -1130, "'fromId'"),
    ("aggTrades", {**BTC, "fromId": "1", "startTime": "1"}, -1128, "Combination of optional parameters invalid."),
    ("aggTrades", {**BTC, "fromId": "1", "endTime": "1"}, -1128, "Combination of optional parameters invalid."),
    ("ticker", {}, -1102, "Param 'symbol' or 'symbols' must be sent, but both were empty/null!"),
    ("ticker", {**BTC, "windowSize": "8d"}, -1130, "'windowSize'"),
    ("ticker", {**BTC, "windowSize": "1d2h"}, -1130, "'windowSize'"),
    ("ticker", {"symbols": str([f"S{i}" for i in range(101)]).replace("'", '"')}, -1101, "up to 100"),
    ("ticker/24hr", {**BTC, "type": "HALF"}, -1139, "Invalid ticker type."),
    ("ticker/24hr", {**BTC, "symbols": '["BTCUSDT"]'}, -1128, "Combination of optional parameters invalid."),
    ("ticker/price", {"symbols": '["BTCUSDT","BTCUSDT"]'}, -1151, "multiple times"),
    ("ticker/price", {"symbols": '["BTCUSDT","NOSUCH"]'}, -1121, "Invalid symbol."),
    ("ticker/price", {"symbols": "[]"}, -1102, "'symbols'"),
    ("ticker/price", {"symbols": "BTCUSDT"}, -1100, "'symbols'"),
    ("ticker/price", {"symbols": '["BTCUSDT",1]'}, -1100, "'symbols'"),
    ("ticker/price", {"symbols": "[" * 5000}, -1100, "'symbols'"),
    ("ticker/price", {**BTC, "symbolStatus": "BREAK"}, -1220, "does not match"),
    ("ticker/price", {**BTC, "symbolStatus": "OPEN"}, -1122, "Invalid symbolStatus."),
    ("exchangeInfo", {**BTC, "symbols": '["BTCUSDT"]'}, -1128, "Combination of optional parameters invalid."),
    ("exchangeInfo", {**BTC, "permissions": "SPOT"}, -1128, "Combination of optional parameters invalid."),
    ("exchangeInfo", {**BTC, "symbolStatus": "TRADING"}, -1128, "Combination of optional parameters invalid."),
    ("exchangeInfo", {"permissions": '["SPOT","FUTURES"]'}, -1130, "'permissions'"),
    ("exchangeInfo", {"showPermissionSets": "perhaps"}, -1130, "'showPermissionSets'"),
]
"""A call, what it is asked, the code and a piece of the message of its refusal."""


async def test_each_mistake_has_its_code_and_says_what_is_wrong(rest: Rest) -> None:
    for call, query, code, piece in WRONG:
        found, message = await refusal(rest, call, **query)
        assert (found, piece in message) == (code, True), (call, query, found, message)


async def test_calls_about_one_symbol_need_it_and_none_takes_one_that_is_unknown(rest: Rest) -> None:
    for call in NEED_SYMBOL:
        assert (await refusal(rest, call))[0] == -1102, call
    for call in (*NEED_SYMBOL, *OF_MANY):
        query = {"interval": "1m"} if "lines" in call else {}
        assert await refusal(rest, call, symbol="NOSUCH", **query) == (-1121, "Invalid symbol."), call


async def test_parameter_that_stands_twice_is_refused(rest: Rest) -> None:
    for query in ("symbol=BTCUSDT&symbol=BTCUSDT", "symbol=BTCUSDT&limit=1&limit=2", "x=1&x=2"):
        answer = await ask(rest, f"trades?{query}")
        assert (answer.status, answer.json["code"]) == (400, -1101), query
        assert answer.json["msg"] == "Duplicate values for a parameter detected."


async def test_time_unit_that_is_none_is_refused(rest: Rest) -> None:
    for unit, code in {"MICROSECOND": None, "microsecond": None, "millisecond": None, "SECOND": -1194}.items():
        answer = await rest.ask("/api/v3/time", {"X-MBX-TIME-UNIT": unit})
        assert answer.json.get("code") == code, unit


HOSTILE = [
    "'; DROP TABLE market.ticks; --",
    "1' OR '1'='1",
    '["BTCUSDT\' OR 1=1"]',
    "%00",
    "BTCUSDT\x00",
    "\udcff".encode("utf-8", "surrogatepass").decode("latin-1"),
    "9" * 30,
    "9" * 5000,
    "-" + "9" * 400,
    "1e400",
    "NaN",
    "\u0661\u0662\u0663",
    "\uff11",
    "../../etc/passwd",
    "{}",
    '[["BTCUSDT"]]',
    '["' + "A" * 5000 + '"]',
    '["\\ud800"]',
    "${jndi:x}",
    "x" * 8000,
    "\u202e\U0001f4a5",
    " ",
    "",
]
NAMES = {
    "symbol", "symbols", "interval", "startTime", "endTime", "timeZone", "limit", "fromId", "type", "windowSize",
    "symbolStatus", "permissions", "showPermissionSets", "unknown",
}  # fmt: skip


async def test_hostile_text_in_any_parameter_of_any_call_is_refused_in_form(
    any_database: Database, instrument: Instrument
) -> None:
    async with serving(any_database, request_weight=1_000_000) as rest:
        for call, name, text in product(CALLS, sorted(NAMES), HOSTILE):
            fit = MINUTES if "lines" in call else BTC if call in NEED_SYMBOL else {}
            await refusal(rest, call, **{**fit, name: text})


TARGETS = [
    b"klines?symbol=%ff%fe",
    b"klines?symbol=BTCUSDT&interval=%c3%28",
    b"klines?%ff=1",
    b"klines?symbol=BTCUSDT&interval=1m&limit=%00",
    b"klines?symbol=%zz",
    b"klines?symbol",
    b"klines?&&&=&",
    b"ticker/price?symbols=%5B%22%ff%22%5D",
    b"trades?symbol=BTCUSDT;DROP",
    b"klines/%2e%2e",
    b"%ff%fe",
    b"",
    b"depth?symbol=BTCUSDT",
    b"nothing/at/all",
]


async def test_bytes_that_are_no_text_and_paths_that_are_no_calls_are_refused_in_form(rest: Rest) -> None:
    for target in TARGETS:
        answer = await send(rest, b"GET /api/v3/" + target)
        assert answer.status in (400, 404), (target, answer)
        assert list(answer.json) == ["code", "msg"], (target, answer)
        assert USED in answer.headers, (target, answer)
        assert (answer.json["code"] == -1020) == (answer.status == 404)


async def test_method_that_is_not_supported_is_refused_in_form(rest: Rest) -> None:
    for method, path in product((b"POST", b"PUT", b"DELETE", b"PATCH"), (b"ping", b"klines", b"ticker/24hr")):
        answer = await send(rest, method + b" /api/v3/" + path)
        assert (answer.status, answer.json["code"], answer.headers["allow"]) == (405, -1020, "get, options")
        assert USED in answer.headers
    assert (await send(rest, b"POST /api/v3/order")).json == {"code": -1020, "msg": "This operation is not supported."}


async def send(rest: Rest, request: bytes) -> Answer:
    return await rest.send(request + b" HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")


# Weight

WEIGHTS: list[tuple[str, dict[str, Any], int]] = [
    ("ping", {}, 1),
    ("time", {}, 1),
    ("exchangeInfo", {}, 20),
    ("klines", MINUTES, 2),
    ("uiKlines", MINUTES, 2),
    ("trades", BTC, 25),
    ("historicalTrades", BTC, 25),
    ("aggTrades", BTC, 4),
    ("avgPrice", BTC, 2),
    ("ticker/24hr", BTC, 2),
    ("ticker/24hr", {"symbols": '["BTCUSDT"]'}, 2),
    ("ticker/24hr", {}, 80),
    ("ticker", BTC, 4),
    ("ticker", {"symbols": '["BTCUSDT","ETHUSDT"]'}, 8),
    ("ticker/price", BTC, 2),
    ("ticker/price", {}, 4),
    ("ticker/bookTicker", BTC, 2),
    ("ticker/bookTicker", {"symbols": '["BTCUSDT"]'}, 4),
    ("trades", {}, 25),
    ("trades", {"symbol": "NOSUCH"}, 25),
    ("depth", BTC, 1),
]


async def test_each_call_costs_its_weight_whatever_it_answers(any_database: Database, instrument: Instrument) -> None:
    await add_instrument(any_database, "ETHUSDT")
    async with serving(any_database) as rest:
        begin_minute(any_database)
        total = 0
        for call, query, cost in WEIGHTS:
            total += cost
            assert int((await ask(rest, call, **query)).headers[USED]) == total, (call, query)


async def test_beyond_its_weight_an_address_is_refused_by_every_process_until_the_minute_ends(
    database: Database,
) -> None:
    await add_instrument(database)
    async with serving(database, request_weight=100) as one, serving(database, request_weight=100) as other:
        begin_minute(database)
        assert (await get(one, "exchangeInfo"))["rateLimits"][0]["limit"] == 100
        spent = [int((await ask(rest, "trades", **BTC)).headers[USED]) for rest in (one, other, one)]
        assert spent == [45, 70, 95]
        answer = await ask(other, "exchangeInfo")
        assert (answer.status, answer.json["code"]) == (429, -1003)
        assert "current limit is 100 request weight per 1 MINUTE" in answer.json["msg"]
        assert 1 <= int(answer.headers["retry-after"]) <= 120
        assert int(answer.headers[USED]) == 115
        for rest in (one, other):
            assert (await ask(rest, "ping")).status == 429
            assert (await ask(rest, "klines")).status == 429
            assert (await ask(rest, "nothing")).status == 429
            assert (await send(rest, b"POST /api/v3/ping")).status == 429
        assert (await one.ask("/api/v1/instruments")).status == 200
        database.execute("UPDATE ops.usage SET window_end = window_end - interval '10 minutes'")  # the minute is over
        assert int((await ask(other, "ping")).headers[USED]) == 1


# The database


async def test_server_answers_503_in_form_while_the_database_is_stopped_and_recovers(
    any_database: Database, any_server: Server, instrument: Instrument, rest: Rest
) -> None:
    await store(any_database, series(instrument, 3), quiet=True)
    assert len(await get(rest, "trades", **BTC)) == 3
    await asyncio.to_thread(any_server.stop)
    for call, query, weight in (("ping", {}, "1"), ("klines", MINUTES, "2"), ("nothing", {}, "1")):
        answer = await rest.ask(f"/api/v3/{call}", None, **query)
        assert (answer.status, answer.json["code"]) == (503, -1001), answer
        assert answer.headers[USED] == weight, "at least what was asked for now"
        assert answer.headers["content-type"] == "application/json"
    await asyncio.to_thread(any_server.start)
    await until_ready(rest, 30)
    assert len(await get(rest, "trades", **BTC)) == 3


async def test_database_that_refuses_is_told_as_one_that_is_away(any_database: Database, rest: Rest) -> None:
    any_database.execute("REVOKE SELECT ON market.ticks FROM tickwick_app")
    answer = await ask(rest, "trades", **BTC)
    assert (answer.status, answer.json["code"]) == (503, -1001)


async def test_fault_of_our_own_is_told_in_form_and_nothing_of_it_is_given_away(
    any_database: Database, rest: Rest
) -> None:
    any_database.execute("ALTER TABLE market.ticks RENAME COLUMN price TO cost")
    answer = await ask(rest, "trades", **BTC)
    assert (answer.status, answer.json) == (
        500,
        {"code": -1000, "msg": "An unknown error occurred while processing the request."},
    )
