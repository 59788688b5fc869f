"""Asking `/api/v3` of a real server."""

from typing import Any
from urllib.parse import urlencode

from tests.databases import Database
from tests.integration.rest import Answer, Rest

USED = "x-mbx-used-weight-1m"


async def ask(rest: Rest, call: str, *, micros: bool = False, **query: Any) -> Answer:
    """Any answer; it is JSON, and tells the weight used."""
    headers = {"X-MBX-TIME-UNIT": "MICROSECOND"} if micros else None
    answer = await rest.ask(f"/api/v3/{call}" + (f"?{urlencode(query)}" if query else ""), headers)
    assert answer.headers["content-type"] == "application/json", answer
    assert answer.headers[USED] == answer.headers["x-mbx-used-weight"], answer
    return answer


async def get(rest: Rest, call: str, *, micros: bool = False, **query: Any) -> Any:
    """The JSON of an answer that is 200."""
    answer = await ask(rest, call, micros=micros, **query)
    assert answer.status == 200, answer
    return answer.json


async def refusal(rest: Rest, call: str, **query: Any) -> tuple[int, str]:
    """Code and message of an answer that is 400."""
    answer = await ask(rest, call, **query)
    assert answer.status == 400, (call, query, answer)
    assert list(answer.json) == ["code", "msg"]
    return answer.json["code"], answer.json["msg"]


def begin_minute(database: Database) -> None:
    """Begin to count anew, in a minute that lasts until the end of the next one: it does not turn during a test."""
    database.execute("DELETE FROM ops.usage")
    database.execute(
        "INSERT INTO ops.usage (limit_name, subject, window_end, used)"
        " VALUES ('binance weight', '127.0.0.1', date_bin('1 minute', now(), 'epoch') + interval '2 minutes', 0)"
    )
