"""What a client of the streams may ask, and the answers: JSON texts, with the published errors.

The line and the column that an error names are those of the frame, from 1.
"""

import re
from typing import Final

import msgspec

Id = int | str | None
METHODS: Final = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")

UNKNOWN_PROPERTY: Final = 0
INVALID_VALUE: Final = 1
INVALID_REQUEST: Final = 2
INVALID_JSON: Final = 3

_MAX_ID_LENGTH: Final = 36
_SHOWN: Final = 60
_BYTE: Final = re.compile(r"\(byte (\d+)\)")


class Subscribe(msgspec.Struct, frozen=True):
    streams: list[str]
    id: Id


class Unsubscribe(msgspec.Struct, frozen=True):
    streams: list[str]
    id: Id


class ListSubscriptions(msgspec.Struct, frozen=True):
    id: Id


class SetProperty(msgspec.Struct, frozen=True):
    """`combined` is the only property: whether events come wrapped with the name of their stream."""

    combined: bool
    id: Id


class GetProperty(msgspec.Struct, frozen=True):
    """Asks for `combined`, the only property."""

    id: Id


Request = Subscribe | Unsubscribe | ListSubscriptions | SetProperty | GetProperty


class Refused(Exception):
    """A frame that is answered with an error; `id` is the frame's where it has a valid one."""

    def __init__(self, code: int, message: str, id: Id = None) -> None:  # noqa: A002  # as the wire calls it
        super().__init__(message)
        self.code = code
        self.id = id


def decode(frame: str) -> Request:
    """What a text frame asks for, or Refused."""
    request = _object(frame)
    request_id = _id(request.get("id"))
    if "method" not in request:
        raise Refused(INVALID_REQUEST, f"Invalid request: missing field `method` at {_place(frame)}", request_id)
    method, params = request["method"], request.get("params")
    if params is not None and not isinstance(params, list):
        raise Refused(INVALID_REQUEST, "Invalid request: params must be an array", request_id)
    match method:
        case "SUBSCRIBE":
            return Subscribe(_streams(params, request_id), request_id)
        case "UNSUBSCRIBE":
            return Unsubscribe(_streams(params, request_id), request_id)
        case "LIST_SUBSCRIPTIONS":
            _at_most(0, params or [], request_id)
            return ListSubscriptions(request_id)
        case "SET_PROPERTY":
            return SetProperty(_value(params or [], request_id), request_id)
        case "GET_PROPERTY":
            _at_most(1, params or [], request_id)
            _named(params or [], request_id)
            return GetProperty(request_id)
    shown = method[:_SHOWN] if isinstance(method, str) else type(method).__name__
    raise Refused(
        INVALID_REQUEST,
        f"Invalid request: unknown variant `{shown}`, expected one of {', '.join(f'`{name}`' for name in METHODS)}"
        f" at {_place(frame)}",
        request_id,
    )


def answer(id: Id, result: object = None) -> str:  # noqa: A002  # as the wire calls it
    return msgspec.json.encode({"result": result, "id": id}).decode()


def refusal(error: Refused) -> str:
    """The error as it is published, and once more where ccxt and Binance's own client look for it."""
    told = {"code": error.code, "msg": str(error)}
    return msgspec.json.encode({"error": told, **told, "id": error.id}).decode()


def too_many_streams(most: int, id: Id) -> Refused:  # noqa: A002  # as the wire calls it
    """The answer to a subscription beyond the streams that a connection may have."""
    return Refused(INVALID_REQUEST, f"Invalid request: a connection can have at most {most} streams", id)


def _object(frame: str) -> dict[str, object]:
    try:
        request = msgspec.json.decode(frame)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        byte = _BYTE.search(str(error))
        place = _place(frame, int(byte[1]) if byte else None)
        raise Refused(INVALID_JSON, f"Invalid JSON: expected value at {place}") from None
    if not isinstance(request, dict):
        raise Refused(INVALID_REQUEST, "Invalid request: expected an object")
    return request


def _place(frame: str, byte: int | None = None) -> str:
    """Where the byte of that number is, from 0, or the frame's last one."""
    lines = frame.encode(errors="replace")[: None if byte is None else byte + 1].split(b"\n")
    return f"line {len(lines)} column {len(lines[-1])}"


def _id(value: object) -> Id:
    if isinstance(value, bool) or not (
        value is None
        or (isinstance(value, int) and -(2**63) <= value < 2**63)
        or (isinstance(value, str) and len(value) <= _MAX_ID_LENGTH)
    ):
        raise Refused(INVALID_REQUEST, "Invalid request: request ID must be an unsigned integer")
    return value


def _streams(params: list[object] | None, request_id: Id) -> list[str]:
    if params is None:
        raise Refused(INVALID_REQUEST, "Invalid request: missing field `params`", request_id)
    streams = [stream for stream in params if isinstance(stream, str)]
    if len(streams) < len(params):
        raise Refused(INVALID_REQUEST, "Invalid request: params must be an array of stream names", request_id)
    return streams


def _value(params: list[object], request_id: Id) -> bool:
    _at_most(2, params, request_id)
    _named(params, request_id)
    if len(params) != 2 or not isinstance(params[1], bool):
        raise Refused(INVALID_VALUE, "Invalid value type: expected Boolean", request_id)
    return params[1]


def _named(params: list[object], request_id: Id) -> None:
    if not params or not isinstance(params[0], str):
        raise Refused(INVALID_REQUEST, "Invalid request: property name must be a string", request_id)
    if params[0] != "combined":
        raise Refused(UNKNOWN_PROPERTY, "Unknown property", request_id)


def _at_most(most: int, params: list[object], request_id: Id) -> None:
    if len(params) > most:
        raise Refused(INVALID_REQUEST, "Invalid request: too many parameters", request_id)
