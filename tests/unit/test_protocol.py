"""Frames of the native stream: what is a request, what is answered by an error, and what ends the connection."""

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.market.intervals import Interval
from app.market.model import Tick
from app.stream import protocol
from app.stream.form import NATIVE
from app.stream.protocol import BadFrame, BadRequest, decode, encode, zone_of
from app.stream.topics import trade_of
from tests.unit.stream_table import instrument


def test_subscribe_is_read_with_all_its_fields() -> None:
    frame = '{"op":"subscribe","id":1,"channel":"trades","symbols":["BINANCE:BTCUSDT"],"since":{"BINANCE:BTCUSDT":5}}'
    assert decode(frame) == protocol.Subscribe(
        id=1, channel="trades", symbols=["BINANCE:BTCUSDT"], since={"BINANCE:BTCUSDT": 5}
    )


@pytest.mark.parametrize(
    ("frame", "request_"),
    [
        ('{"op":"list","id":"a"}', protocol.List(id="a")),
        ('{"op":"ping"}', protocol.Ping()),
        ('{"op":"auth","token":"t"}', protocol.Auth(token="t")),
        (
            '{"op":"unsubscribe","channel":"candles","symbols":["*"],"interval":"1M","timezone":"Asia/Tokyo"}',
            protocol.Unsubscribe(channel="candles", symbols=["*"], interval=Interval.MONTH, timezone="Asia/Tokyo"),
        ),
    ],
)
def test_request_of_each_kind_is_read(frame: str, request_: protocol.Request) -> None:
    assert decode(frame) == request_


@pytest.mark.parametrize(
    ("fields", "request_id"),
    [
        ({"op": "subscribe", "id": 5}, 5),
        ({"op": "sell", "id": "x"}, "x"),
        ({"id": 5}, 5),
        ({"op": "ping", "id": [1]}, None),
        ({"op": "ping", "extra": 1}, None),
        ({"op": "subscribe", "channel": "trades", "symbols": ["A"] * 1_025, "id": 1}, 1),
        ({"op": "subscribe", "channel": "trades", "symbols": ["A"], "since": {"A": 2**63}, "id": 1}, 1),
        ({"op": "subscribe", "channel": "trades", "symbols": ["A"], "since": {"A": 1.5}, "id": 1}, 1),
    ],
)
def test_object_that_is_no_request_is_answered_with_its_id(fields: dict[str, Any], request_id: object) -> None:
    with pytest.raises(BadRequest) as caught:
        decode(json.dumps(fields))
    assert caught.value.request_id == request_id
    encode(protocol.ErrorEvent(caught.value.code, caught.value.message, caught.value.request_id))


@given(frame=st.text(max_size=200))
def test_text_of_any_kind_is_a_request_or_refused(frame: str) -> None:
    try:
        decode(frame)
    except BadFrame:
        pass
    except BadRequest as error:
        encode(protocol.ErrorEvent(error.code, error.message, error.request_id))


@pytest.mark.parametrize("length", [protocol.MAX_MESSAGE_BYTES, protocol.MAX_MESSAGE_BYTES + 1])
@pytest.mark.parametrize("letter", ["x", "é"])
def test_message_is_measured_in_bytes(letter: str, length: int) -> None:
    frame = '{"op":"pin","id":"'
    rest = length - len(frame) - 2
    frame += letter * (rest // len(letter.encode())) + "x" * (rest % len(letter.encode())) + '"}'
    assert len(frame.encode()) == length
    with pytest.raises(BadFrame if length > protocol.MAX_MESSAGE_BYTES else BadRequest):
        decode(frame)


@pytest.mark.parametrize("zone", ["../../etc/passwd", "", "Nowhere/City", "a" * 5_000, "America", "Europe/Berlin\0"])
def test_zone_outside_of_the_database_is_refused(zone: str) -> None:
    with pytest.raises(BadRequest, match="IANA"):
        zone_of(protocol.Subscribe(channel="candles", symbols=["A"], interval=Interval.D1, timezone=zone))


def test_zone_is_named_as_its_database_names_it() -> None:
    request = protocol.Subscribe(channel="candles", symbols=["A"], interval=Interval.W1, timezone="Asia/Kathmandu")
    assert zone_of(request) == "Asia/Kathmandu"
    assert zone_of(protocol.Subscribe(channel="trades", symbols=["A"])) == "UTC"


@pytest.mark.parametrize(
    ("text", "zone"), [("Z", "UTC"), ("+00:00", "UTC"), ("+05:30", "+05:30"), ("-03:00", "-03:00")]
)
def test_zone_is_read_as_rest_reads_it(text: str, zone: str) -> None:
    request = protocol.Subscribe(channel="candles", symbols=["A"], interval=Interval.D1, timezone=text)
    assert zone_of(request) == zone


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channel": "candles", "symbols": ["A"], "interval": "2m"}, f"interval must be one of {' '.join(Interval)}"),
        ({"channel": "books", "symbols": ["A"]}, "channel must be one of trades candles ticker"),
        ({"symbols": ["A"]}, "channel must be one of trades candles ticker"),
        ({"op": "sell"}, "op must be one of subscribe unsubscribe list ping auth"),
        ({"op": 5}, "op must be one of"),
    ],
)
def test_choice_that_is_none_is_answered_with_the_choices(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        decode(json.dumps({"op": "subscribe", **fields}))


@given(
    whole=st.integers(1, 10**20 - 1),
    places=st.integers(0, 18),
    size=st.integers(0, 10**6),
    maker=st.sampled_from([True, False, None]),
)
def test_trade_keeps_every_digit_from_notification_to_event(
    whole: int, places: int, size: int, maker: bool | None
) -> None:
    digits = str(whole).rjust(places + 1, "0")
    price = f"{digits[:-places]}.{digits[-places:]}" if places else digits
    volume = f"{size}.000000000000000000"
    payload = f'[7,1,1610064000310000,"{price}","{volume}",{json.dumps(maker)}]'
    tick = msgspec.json.decode(payload, type=Tick)
    event = json.loads(NATIVE.trade(instrument(), trade_of(tick)))
    assert (event["price"], event["size"], event["time"]) == (price, volume, "2021-01-08T00:00:00.310000Z")
    assert event["side"] == {True: "sell", False: "buy", None: None}[maker]
    assert tick.price == Decimal(price)
