"""Tracking switched on and off by REST, by whoever has the server's token and by nobody else."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.market.model import Instrument
from tests.databases import Database
from tests.integration.rest import Answer, Rest, serving

TOKEN = "correct-horse-Ä"  # a test's own
PATIENCE = 20.0


@pytest.fixture
async def guarded(any_database: Database, instrument: Instrument) -> AsyncIterator[Rest]:
    async with serving(any_database, admin_token=TOKEN) as served:
        yield served


async def put(rest: Rest, symbol: str, body: Any, *, authorization: str | None = f"Bearer {TOKEN}") -> Answer:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [
        f"PUT /api/v1/instruments/{symbol}/tracking HTTP/1.1",
        "Host: test",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        "Connection: close",
    ]
    if authorization is not None:
        lines.append(f"Authorization: {authorization}")
    return await rest.send("\r\n".join([*lines, "", ""]).encode() + content)


async def listed(rest: Rest, symbol: str, *, active: bool) -> None:
    """Return once the list of instruments tells of it."""
    async with asyncio.timeout(PATIENCE):
        while (symbol, active) not in {  # noqa: ASYNC110  # nothing announces it
            (i["symbol"], i["active"]) for i in (await rest.get("/instruments"))["instruments"]
        }:
            await asyncio.sleep(0.01)


async def test_tracking_goes_off_and_on_again_and_the_list_of_instruments_follows(
    guarded: Rest, any_database: Database
) -> None:
    off = await put(guarded, "btcusdt", {"tracked": False})
    assert (off.status, off.json["symbol"], off.json["active"]) == (200, "SIM:BTCUSDT", False)
    await listed(guarded, "SIM:BTCUSDT", active=False)
    on = await put(guarded, "SIM:BTCUSDT", {"tracked": True, "feed": "trade"})
    assert (on.status, on.json["active"]) == (200, True)
    await listed(guarded, "SIM:BTCUSDT", active=True)
    assert any_database.execute("SELECT active FROM market.instruments") == [(True,)]


async def test_new_symbol_of_a_known_source_is_added_with_its_feed(guarded: Rest) -> None:
    answer = await put(guarded, "sim:adausdt", {"tracked": True})
    assert answer.status == 200
    added = answer.json
    assert (added["symbol"], added["feed"], added["contiguous_ids"]) == ("SIM:ADAUSDT", "trade", True)
    await listed(guarded, "SIM:ADAUSDT", active=True)
    quoted = (await put(guarded, "SIM:EUR-USD", {"tracked": True, "feed": "quote"})).json
    assert (quoted["feed"], quoted["contiguous_ids"]) == ("quote", False)


REFUSED = [
    ("ADAUSDT", {"tracked": True}, 400, "symbol", "SOURCE:TICKER"),
    ("SIM:", {"tracked": True}, 400, "symbol", "SOURCE:TICKER"),
    ("SIM:A%20B", {"tracked": True}, 400, "symbol", "SOURCE:TICKER"),
    ("SIM:A%00", {"tracked": True}, 400, "symbol", "SOURCE:TICKER"),
    ("SIM:" + "A" * 41, {"tracked": True}, 400, "symbol", "SOURCE:TICKER"),
    ("NOWHERE:ADAUSDT", {"tracked": True}, 400, "symbol", "there are: SIM"),
    ("SIM:ADAUSDT", {"tracked": False}, 404, None, "SIM:ADAUSDT"),
    ("SIM:BTCUSDT", {"tracked": True, "feed": "aggTrade"}, 400, "feed", "trade"),
    ("SIM:BTCUSDT", {"tracked": False, "feed": "trade"}, 400, "feed", "tracked"),
    ("SIM:BTCUSDT", {"tracked": True, "feed": "depth"}, 400, "feed", "depth"),
    ("SIM:BTCUSDT", {"tracked": "yes"}, 400, "tracked", "bool"),
    ("SIM:BTCUSDT", {"tracked": True, "more": 1}, 400, None, "more"),
    ("SIM:BTCUSDT", {}, 400, None, "tracked"),
    ("SIM:BTCUSDT", b"", 400, None, ""),
    ("SIM:BTCUSDT", b"{", 400, None, ""),
    ("SIM:BTCUSDT", b"[" * 5_000, 400, None, ""),
    ("SIM:BTCUSDT", b'{"tracked":true,"x":"' + b"x" * 70_000 + b'"}', 413, None, ""),
]


async def test_request_that_cannot_be_right_is_refused_and_changes_nothing(
    guarded: Rest, any_database: Database
) -> None:
    for symbol, body, status, field, text in REFUSED:
        answer = await put(guarded, symbol, body)
        assert answer.status == status, (symbol, body, answer)
        assert answer.headers["content-type"] == "application/problem+json"
        assert text in answer.json["detail"]
        if field is not None:
            assert [error["field"] for error in answer.json["errors"]] == [field]
    assert any_database.execute("SELECT symbol, active FROM market.instruments") == [("SIM:BTCUSDT", True)]


WRONG = (
    None,
    "",
    "Bearer",
    "Bearer ",
    "Bearer wrong",
    f"Bearer {TOKEN}x",
    f"Bearer {TOKEN[:-1]}",
    f"Basic {TOKEN}",
    TOKEN,
)


async def test_token_that_is_absent_or_wrong_is_answered_401(guarded: Rest, any_database: Database) -> None:
    for authorization in WRONG:
        with capture_logs() as logs:
            answer = await put(guarded, "SIM:BTCUSDT", {"tracked": False}, authorization=authorization)
        assert answer.status == 401, authorization
        assert answer.headers["www-authenticate"].startswith("bearer")
        assert answer.headers["content-type"] == "application/problem+json"
        assert TOKEN not in str(logs)
        assert TOKEN.encode() not in answer.body
    assert any_database.execute("SELECT active FROM market.instruments") == [(True,)]


async def test_server_without_a_token_answers_403_and_says_which_setting_is_missing(rest: Rest) -> None:
    for authorization in (None, "Bearer ", "Bearer x"):
        answer = await put(rest, "SIM:BTCUSDT", {"tracked": False}, authorization=authorization)
        assert answer.status == 403
        assert "TICKWICK_ADMIN_TOKEN" in answer.json["detail"]


async def test_openapi_tells_of_the_token_and_of_every_answer(guarded: Rest) -> None:
    schema = (await guarded.ask("/schema/openapi.json")).json
    operation = schema["paths"]["/api/v1/instruments/{symbol}/tracking"]["put"]
    assert operation["security"] == [{"admin": []}]
    assert schema["components"]["securitySchemes"]["admin"]["scheme"] == "bearer"
    assert set(operation["responses"]) == {"200", "400", "401", "403", "404", "503"}
    body = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    properties = schema["components"]["schemas"][body]["properties"]
    assert set(properties) == {"tracked", "feed"}
