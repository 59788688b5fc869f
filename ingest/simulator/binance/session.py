"""A client of Binance's stream: requests and answers, streams combined or raw, times in one unit or the other."""

from aiohttp import web

from app.binance.wire import control, events
from app.binance.wire.control import GetProperty, ListSubscriptions, Refused, SetProperty, Subscribe, Unsubscribe
from app.binance.wire.parameters import time_unit
from ingest.simulator import wire
from ingest.simulator.binance.frames import FORMS, combined
from ingest.simulator.session import Session, Sessions
from ingest.simulator.wire import Topic


class BinanceSession(Session):
    """One connection to `/ws` or `/stream`; `?timeUnit=MICROSECOND` is honoured, BinanceError for another unit."""

    def __init__(self, sessions: Sessions, request: web.Request, *, wrapped: bool) -> None:
        super().__init__(sessions, request, sessions.limits.messages_per_second)
        self._unit = time_unit(request.query.get("timeUnit"))
        self.wrap = combined if wrapped else None

    def topic(self, stream: str) -> Topic:
        return Topic(FORMS[self._unit], stream)

    def notice(self, now_us: int) -> bytes:
        notice = events.shutdown(now_us, self._unit)
        return (events.combined(events.SHUTDOWN_STREAM, notice) if self.wrap else notice).encode()

    def answer(self, frame: str) -> None:
        try:
            request = control.decode(frame)
            answer = control.answer(request.id, self._obey(request))
        except Refused as refused:
            answer = control.refusal(refused)
        self.write(wire.text(answer.encode()))

    def _obey(self, request: control.Request) -> object:
        match request:
            case ListSubscriptions():
                return [topic.stream for topic in self.topics]
            case GetProperty():
                return self.wrap is not None
            case SetProperty():
                self.wrap = combined if request.combined else None
            case Unsubscribe():
                self.sessions.unsubscribe(self, self._topics(request.streams))
            case Subscribe():
                topics, most = self._topics(request.streams), self.sessions.limits.streams
                if len(self.topics | topics) > most:
                    raise control.too_many_streams(most, request.id)
                self.sessions.subscribe(self, topics)
        return None

    def _topics(self, streams: list[str]) -> dict[Topic, None]:
        return dict.fromkeys(map(self.topic, streams))
