"""A client of Binance's stream: SUBSCRIBE and its answers, streams combined or raw, times in one unit or the other."""

from collections.abc import Mapping

import msgspec
from aiohttp import web

from ingest.simulator import wire
from ingest.simulator.binance import frames
from ingest.simulator.session import Session, Sessions
from ingest.simulator.wire import Topic

METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
INVALID_REQUEST = 2
INVALID_JSON = 3


class Refused(Exception):  # answered, not raised to a user
    """A control frame that is answered with an error."""

    def __init__(self, message: str, code: int = INVALID_REQUEST) -> None:
        super().__init__(message)
        self.code = code


class BinanceSession(Session):
    """One connection to `/ws` or `/stream`; `?timeUnit=MICROSECOND` is honoured."""

    def __init__(self, sessions: Sessions, request: web.Request, *, combined: bool) -> None:
        super().__init__(sessions, request, sessions.limits.messages_per_second)
        self._form = form_of(request.query)
        self.wrap = frames.combined if combined else None

    def topic(self, stream: str) -> Topic:
        return Topic(self._form, stream)

    def notice(self, now_us: int) -> bytes:
        return frames.shutdown_frame(frames.UNITS[self._form], now_us)

    def answer(self, frame: str) -> None:
        request_id: object = None
        try:
            try:
                request = msgspec.json.decode(frame)
            except msgspec.DecodeError as error:
                raise Refused(f"Invalid JSON: {error}", INVALID_JSON) from error
            if not isinstance(request, dict):
                raise Refused("Invalid request: expected an object")
            request_id = _valid_id(request.get("id"))
            answer: dict[str, object] = {"result": self._obey(request.get("method"), request.get("params", []))}
        except Refused as refusal:
            answer = {"error": {"code": refusal.code, "msg": str(refusal)}}
        self.write(wire.text(msgspec.json.encode(answer | {"id": request_id})))

    def _obey(self, method: object, params: object) -> object:
        if method not in METHODS:
            raise Refused(f"Invalid request: unknown variant {method}, expected one of {', '.join(METHODS)}")
        if not isinstance(params, list):
            raise Refused("Invalid request: params must be an array")
        if method == "LIST_SUBSCRIPTIONS":
            return [topic.stream for topic in self.topics]
        if method in {"SET_PROPERTY", "GET_PROPERTY"}:
            return self._property(method, params)
        if not params or not all(isinstance(stream, str) for stream in params):
            raise Refused("Invalid request: params must be an array of stream names")
        topics = dict.fromkeys(map(self.topic, params))
        if method == "UNSUBSCRIBE":
            self.sessions.unsubscribe(self, topics)
        elif len(self.topics | topics) > self.sessions.limits.streams:
            raise Refused(f"Invalid request: at most {self.sessions.limits.streams} streams on a connection")
        else:
            self.sessions.subscribe(self, topics)
        return None

    def _property(self, method: str, params: list[object]) -> object:
        """`combined` is the only property: whether events come wrapped with the name of their stream."""
        match method, params:
            case "GET_PROPERTY", ["combined"]:
                return self.wrap is not None
            case "SET_PROPERTY", ["combined", bool(value)]:
                self.wrap = frames.combined if value else None
                return None
        raise Refused("Unknown property", code=0)


def form_of(query: Mapping[str, str]) -> str:
    """The form whose times have the unit that a connection asks for; milliseconds unless it says otherwise."""
    return "binance microseconds" if query.get("timeUnit", "").upper() == "MICROSECOND" else "binance"


def _valid_id(request_id: object) -> object:
    """The id of a control frame: an integer, a string of at most 36 characters, or null."""
    if isinstance(request_id, bool) or not (request_id is None or isinstance(request_id, int | str)):
        raise Refused("Invalid request: request ID must be an integer, a string, or null")
    if isinstance(request_id, str) and len(request_id) > 36:
        raise Refused("Invalid request: request ID must be at most 36 characters")
    return request_id
