import json
from datetime import UTC, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.binance.wire import control
from app.binance.wire.control import GetProperty, ListSubscriptions, Refused, SetProperty, Subscribe, Unsubscribe
from app.binance.wire.streams import Stream, listed, parse
from app.market.intervals import Interval

METHODS = "`SUBSCRIBE`, `UNSUBSCRIBE`, `LIST_SUBSCRIPTIONS`, `SET_PROPERTY`, `GET_PROPERTY`"


@pytest.mark.parametrize(
    ("frame", "request_"),
    [
        (
            {"method": "SUBSCRIBE", "params": ["a@trade", "b@kline_1m"], "id": 1},
            Subscribe(["a@trade", "b@kline_1m"], 1),
        ),
        ({"method": "SUBSCRIBE", "params": [], "id": 1}, Subscribe([], 1)),
        ({"method": "UNSUBSCRIBE", "params": ["a@trade"], "id": "x" * 36}, Unsubscribe(["a@trade"], "x" * 36)),
        ({"method": "LIST_SUBSCRIPTIONS", "id": None}, ListSubscriptions(None)),
        ({"method": "LIST_SUBSCRIPTIONS", "params": []}, ListSubscriptions(None)),
        ({"method": "LIST_SUBSCRIPTIONS", "id": -(2**63)}, ListSubscriptions(-(2**63))),
        ({"method": "LIST_SUBSCRIPTIONS", "id": 2**63 - 1}, ListSubscriptions(2**63 - 1)),
        ({"method": "SET_PROPERTY", "params": ["combined", True], "id": 5}, SetProperty(True, 5)),
        ({"method": "GET_PROPERTY", "params": ["combined"], "id": 2}, GetProperty(2)),
    ],
)
def test_control_frame_of_the_published_form_is_understood(frame: object, request_: object) -> None:
    assert control.decode(json.dumps(frame)) == request_


@pytest.mark.parametrize(
    ("frame", "code", "message", "request_id"),
    [
        ("", 3, "Invalid JSON: expected value at line 1 column 0", None),
        ("{\n x", 3, "Invalid JSON: expected value at line 2 column 2", None),
        ('{"method":"\\ud800"}', 3, "Invalid JSON: expected value at line 1 column 19", None),
        ('{"id":NaN}', 3, "Invalid JSON: expected value at line 1 column 7", None),
        ("[" * 5000, 3, "Invalid JSON: expected value at line 1 column 5000", None),
        ('{"a":' * 5000, 3, "Invalid JSON: expected value at line 1 column 25000", None),
        ("[]", 2, "Invalid request: expected an object", None),
        ("null", 2, "Invalid request: expected an object", None),
        ('{"id":7}', 2, "Invalid request: missing field `method` at line 1 column 8", 7),
        (
            '{"method":"subscribe","id":7}',
            2,
            f"Invalid request: unknown variant `subscribe`, expected one of {METHODS} at line 1 column 29",
            7,
        ),
        (
            '{"method":["SUBSCRIBE"]}',
            2,
            f"Invalid request: unknown variant `list`, expected one of {METHODS} at line 1 column 24",
            None,
        ),
        ('{"method":"SUBSCRIBE","id":1}', 2, "Invalid request: missing field `params`", 1),
        ('{"method":"SUBSCRIBE","params":"a@trade","id":1}', 2, "Invalid request: params must be an array", 1),
        ('{"method":"SUBSCRIBE","params":[1]}', 2, "Invalid request: params must be an array of stream names", None),
        ('{"method":"LIST_SUBSCRIPTIONS","params":["a"],"id":1}', 2, "Invalid request: too many parameters", 1),
        ('{"method":"GET_PROPERTY","params":["combined",1]}', 2, "Invalid request: too many parameters", None),
        ('{"method":"SET_PROPERTY","params":["combined",true,1]}', 2, "Invalid request: too many parameters", None),
        ('{"method":"GET_PROPERTY"}', 2, "Invalid request: property name must be a string", None),
        ('{"method":"SET_PROPERTY","params":[true]}', 2, "Invalid request: property name must be a string", None),
        ('{"method":"GET_PROPERTY","params":["speed"],"id":"p"}', 0, "Unknown property", "p"),
        ('{"method":"SET_PROPERTY","params":["combined","yes"]}', 1, "Invalid value type: expected Boolean", None),
        ('{"method":"SET_PROPERTY","params":["combined",1]}', 1, "Invalid value type: expected Boolean", None),
        ('{"method":"SET_PROPERTY","params":["combined"]}', 1, "Invalid value type: expected Boolean", None),
        *(
            (
                f'{{"method":"LIST_SUBSCRIPTIONS","id":{wrong}}}',
                2,
                "Invalid request: request ID must be an unsigned integer",
                None,
            )
            for wrong in ("true", "1.5", "[]", "{}", str(2**63), str(2**70), '"' + "x" * 37 + '"')
        ),
    ],
)
def test_control_frame_that_is_wrong_is_answered_in_the_published_form(
    frame: str, code: int, message: str, request_id: object
) -> None:
    with pytest.raises(Refused) as refused:
        control.decode(frame)
    told = {"code": code, "msg": message}
    assert json.loads(control.refusal(refused.value)) == {"error": told, **told, "id": request_id}


@given(st.text() | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps))
def test_control_frame_of_any_text_is_refused(frame: str) -> None:
    with pytest.raises(Refused) as refused:
        control.decode(frame)
    assert json.loads(control.refusal(refused.value))["code"] in {2, 3}


def test_control_answer_repeats_the_id() -> None:
    assert control.answer(1) == '{"result":null,"id":1}'
    assert control.answer('"', ["a@trade"]) == '{"result":["a@trade"],"id":"\\""}'


@pytest.mark.parametrize(
    ("name", "stream"),
    [
        ("btcusdt@trade", Stream("btcusdt@trade", "trade", "BTCUSDT")),
        ("coinbase.btc-usd@aggTrade", Stream("coinbase.btc-usd@aggTrade", "aggTrade", "COINBASE.BTC-USD")),
        ("btcusdt@kline_1M", Stream("btcusdt@kline_1M", "kline", "BTCUSDT", Interval.MONTH, UTC)),
        (
            "btcusdt@kline_1d@+08:00",
            Stream("btcusdt@kline_1d@+08:00", "kline", "BTCUSDT", Interval.D1, timezone(timedelta(hours=8))),
        ),
        (
            "btcusdt@kline_1d@ 08:00",
            Stream("btcusdt@kline_1d@+08:00", "kline", "BTCUSDT", Interval.D1, timezone(timedelta(hours=8))),
        ),
        ("btcusdt@ticker", Stream("btcusdt@ticker", "ticker", "BTCUSDT")),
        ("btcusdt@miniTicker", Stream("btcusdt@miniTicker", "miniTicker", "BTCUSDT")),
        ("btcusdt@avgPrice", Stream("btcusdt@avgPrice", "avgPrice", "BTCUSDT")),
        ("!miniTicker@arr", Stream("!miniTicker@arr", "miniTicker")),
        ("!ticker@arr", Stream("!ticker@arr", "ticker")),
    ],
)
def test_stream_of_a_published_name_is_understood(name: str, stream: Stream) -> None:
    assert parse(name) == stream


@pytest.mark.parametrize(
    "name",
    [
        "",
        "0",
        "btcusdt",
        "@trade",
        "btcusdt@",
        "BTCUSDT@trade",
        "btcusdt@Trade",
        "btcusdt@depth",
        "btcusdt@trade@+08:00",
        "btcusdt@kline_2m",
        "btcusdt@kline_1D",
        "btcusdt@kline_",
        "btcusdt@kline_1d@+15:00",
        "btcusdt@kline_1d@08:00",
        "btcusdt@kline_1d@+8:00",
        "btcusdt@trade\n",
        'btc"usdt@trade',
        "btc\0usdt@trade",
        "\uff42tc@trade",
        "!trade@arr",
        "!miniTicker@arr@x",
        "!serverShutdown",
        "a" * 81 + "@trade",
    ],
)
def test_stream_of_another_name_is_none(name: str) -> None:
    assert parse(name) is None


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        ("0", []),
        ("btcusdt@trade", ["btcusdt@trade"]),
        ("btcusdt@trade/1//!miniTicker@arr/", ["btcusdt@trade", "!miniTicker@arr"]),
        ("btcusdt@kline_1d@ 08:00", ["btcusdt@kline_1d@+08:00"]),
    ],
)
def test_stream_names_of_a_path_leave_out_what_is_none(text: str, names: list[str]) -> None:
    assert listed(text) == names
