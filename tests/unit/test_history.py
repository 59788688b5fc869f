"""The client of past trades against venues that misbehave on command."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from aiohttp import web

from app.market.model import InstrumentId
from ingest.backoff import Backoff
from ingest.history import HistoryClient, HistoryRefused, HistoryUnavailable, Patience, Weight
from ingest.rest import LONGEST_WAIT, LONGEST_WAIT_TO_DATE
from ingest.sources import History
from ingest.sources.binance_rest import binance_history
from ingest.sources.coinbase_rest import coinbase_history
from ingest.sources.kraken_rest import kraken_history
from tests.unit.rest_venue import Answer, RestVenue, open_rest

ONE = InstrumentId(1)
TIME_US = 1_700_000_000_000_000
PATIENCE = Patience(attempts=3, timeout=5.0)
UNKNOWN = {"code": -1121, "msg": "Invalid symbol."}


@pytest.fixture
async def venue() -> AsyncIterator[RestVenue]:
    async with open_rest() as venue:
        yield venue


def binance(venue: RestVenue, feed: Any = "trade") -> History:
    history = binance_history(feed, venue.url)
    assert history
    return replace(history, requests_per_second=1000)


@asynccontextmanager
async def client(history: History, patience: Patience = PATIENCE) -> AsyncIterator[HistoryClient]:
    async with HistoryClient(history, patience=patience, backoff=lambda: Backoff(first=0.001, ceiling=0.001)) as client:
        yield client


def trade(trade_id: int, time_us: int = TIME_US) -> dict[str, Any]:
    return {"id": trade_id, "price": "1.5", "qty": "2", "time": time_us, "isBuyerMaker": False}


def trades(*ids: int, **headers: Any) -> Answer:
    return Answer([trade(trade_id) for trade_id in ids], **headers)


async def test_page_asks_for_microseconds_from_the_id_on(venue: RestVenue) -> None:
    venue.answers = [trades(5, 6, 8)]
    async with client(binance(venue)) as history:
        ticks = await history.page("BTCUSDT", ONE, 5, TIME_US)
    assert [(tick.trade_id, tick.time_us) for tick in ticks] == [(5, TIME_US), (6, TIME_US), (8, TIME_US)]
    assert venue.paths == ["/api/v3/historicalTrades?symbol=BTCUSDT&fromId=5&limit=1000"]
    assert venue.requests[0].headers["X-MBX-TIME-UNIT"] == "MICROSECOND"


async def test_page_without_trades_is_empty(venue: RestVenue) -> None:
    venue.answers = [trades(), trades(3, 4)]
    async with client(binance(venue)) as history:
        assert await history.page("BTCUSDT", ONE, 5, TIME_US) == []
        assert await history.page("BTCUSDT", ONE, 5, TIME_US) == []  # what lies before the id is not asked for


async def test_page_is_never_longer_than_announced(venue: RestVenue) -> None:
    venue.answers = [trades(5, 6, 7)]
    async with client(replace(binance(venue), page_ticks=2)) as history:
        assert [tick.trade_id for tick in await history.page("BTCUSDT", ONE, 5, TIME_US)] == [5, 6]


async def test_page_of_aggregates_has_their_ids(venue: RestVenue) -> None:
    row = {"a": 5, "f": 9, "p": "1.5", "q": "2", "T": TIME_US, "m": True}
    venue.answers = [Answer([row]), Answer([row])]
    async with client(binance(venue, "aggTrade")) as history:
        assert [tick.trade_id for tick in await history.page("BTCUSDT", ONE, 5, TIME_US)] == [5]
        assert await history.first_id_at("BTCUSDT", ONE, TIME_US + 999) == 5
    assert venue.paths == [
        "/api/v3/aggTrades?symbol=BTCUSDT&fromId=5&limit=1000",
        "/api/v3/aggTrades?symbol=BTCUSDT&startTime=1700000000000&limit=1",
    ]


async def test_first_id_of_trades_is_that_of_the_first_aggregate(venue: RestVenue) -> None:
    venue.answers = [Answer([{"a": 5, "f": 9, "p": "1.5", "q": "2", "T": TIME_US, "m": True}]), Answer([])]
    async with client(binance(venue)) as history:
        assert await history.first_id_at("BTCUSDT", ONE, TIME_US) == 9
        assert await history.first_id_at("BTCUSDT", ONE, TIME_US) is None


def test_feeds_without_ids_have_no_history() -> None:
    assert [binance_history(feed) is None for feed in ("trade", "aggTrade", "kline_1s", "miniTicker")] == [
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize("status", [418, 429, 503])
async def test_retry_after_keeps_every_request_from_going_out(venue: RestVenue, status: int) -> None:
    venue.answers = [Answer(status=status, Retry_After="7")]
    async with client(binance(venue)) as history:
        assert history.pause == 0
        with pytest.raises(HistoryUnavailable, match=f"HTTP {status}") as first:
            await history.page("BTCUSDT", ONE, 5, TIME_US)
        with pytest.raises(HistoryUnavailable, match="stay away") as second:
            await history.page("ETHUSDT", ONE, 5, TIME_US)
        with pytest.raises(HistoryUnavailable):
            await history.first_id_at("BTCUSDT", ONE, TIME_US)
        assert 0 < second.value.wait <= first.value.wait <= 7
        assert 0 < history.pause <= 7
    assert len(venue.requests) == 1


async def test_pause_that_is_over_lets_requests_pass(venue: RestVenue) -> None:
    venue.answers = [Answer(status=429), trades(5)]
    patience = Patience(attempts=1, default_pause=0.0)
    async with client(binance(venue), patience) as history:
        with pytest.raises(HistoryUnavailable):
            await history.page("BTCUSDT", ONE, 5, TIME_US)
        assert len(await history.page("BTCUSDT", ONE, 5, TIME_US)) == 1


@pytest.mark.parametrize(
    "retry_after",
    [
        *("9" * 400, "soon", "-1", "1e9", "\u0663", "Wed, 21 Oct 2099 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:00 GMT"),
        *(f"Wed, 21 Oct {'9' * 30} 07:28:00 GMT", "Wed, 21 Oct 2099 07:28:00 +9999", "Wed, 21 Oct 2099 07:28:00 -0000"),
    ],
)
async def test_senseless_retry_after_is_bounded(venue: RestVenue, retry_after: str) -> None:
    venue.answers = [Answer(status=429, Retry_After=retry_after)]
    async with client(binance(venue)) as history:
        with pytest.raises(HistoryUnavailable) as caught:
            await history.page("BTCUSDT", ONE, 5, TIME_US)
    assert 0 < caught.value.wait <= LONGEST_WAIT


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        ("Tue, 21 Jul 2026 06:30:30 GMT", 45),
        ("Tue, 21 Jul 2026 08:30:30 +0200", 45),
        ("Wed, 22 Jul 2026 06:30:30 GMT", LONGEST_WAIT_TO_DATE),
    ],
)
async def test_retry_after_with_a_date_is_kept_by_the_servers_own_clock(
    venue: RestVenue, status: int, retry_after: str, seconds: float
) -> None:
    venue.answers = [Answer(status=status, Retry_After=retry_after, Date="Tue, 21 Jul 2026 06:29:45 GMT")]
    async with client(binance(venue)) as history:
        with pytest.raises(HistoryUnavailable) as caught:
            await history.page("BTCUSDT", ONE, 5, TIME_US)
    assert caught.value.wait == pytest.approx(seconds, abs=1)


async def test_retry_after_with_a_date_is_kept_by_our_clock_where_the_server_tells_none(venue: RestVenue) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=10), usegmt=True)
    venue.answers = [Answer(status=429, Retry_After=date, Date="today")]
    async with client(binance(venue)) as history:
        with pytest.raises(HistoryUnavailable) as caught:
            await history.page("BTCUSDT", ONE, 5, TIME_US)
    assert 500 < caught.value.wait <= 600


async def test_weight_told_by_the_venue_holds_requests_back_until_its_next_minute(venue: RestVenue) -> None:
    date = "Tue, 21 Jul 2026 06:29:45 GMT"
    near = {"X_MBX_USED_WEIGHT_1M": "4776", "Date": date}
    venue.answers = [trades(5, **near)]
    async with client(binance(venue)) as history:
        assert await history.page("BTCUSDT", ONE, 5, TIME_US)
        with pytest.raises(HistoryUnavailable, match="weight") as caught:
            await history.page("BTCUSDT", ONE, 6, TIME_US)
        assert 0 < caught.value.wait <= 15
        assert history.pause == 0
        venue.answers = [Answer([])]
        assert await history.first_id_at("BTCUSDT", ONE, TIME_US) is None  # 4 fit where 25 do not
    assert len(venue.requests) == 2


async def test_own_count_holds_requests_back_where_the_venue_tells_nothing(venue: RestVenue) -> None:
    venue.otherwise = lambda _: trades(5)
    weight = Weight(60, Clock(), lambda: 0.0)
    async with HistoryClient(binance(venue), weight=weight) as history:
        for _ in range(2):
            await history.page("BTCUSDT", ONE, 5, TIME_US)
        with pytest.raises(HistoryUnavailable, match="weight"):
            await history.page("BTCUSDT", ONE, 5, TIME_US)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_weight_of_a_minute_is_forgotten_when_it_ends() -> None:
    clock = Clock()
    weight = Weight(100, clock, lambda: 50.0)
    weight.spend(90)
    assert weight.delay(10) == 0
    assert weight.delay(11) == 10
    clock.now += 9.5
    assert weight.delay(11) == 0.5
    clock.now += 0.5
    assert weight.delay(100) == 0


def test_weight_told_by_the_venue_counts_with_the_venues_clock() -> None:
    clock = Clock()
    weight = Weight(100, clock, lambda: 50.0)
    weight.told(100, datetime(2026, 1, 1, 12, 0, 20, tzinfo=UTC))
    assert weight.delay(1) == 40
    weight.told(0, None)
    assert weight.delay(100) == 0


def test_weight_without_a_limit_never_waits() -> None:
    weight = Weight(None, Clock(), lambda: 0.0)
    weight.spend(10**9)
    assert weight.delay(10**9) == 0


@pytest.mark.parametrize(
    "failure",
    [
        Answer(status=500),
        Answer(status=502, body=b"<html>"),
        Answer(status=408),
        Answer(b"<html>"),
        Answer(b'{"id":5}'),
        Answer([trade(6), trade(6)]),
        Answer([trade(6), trade(5)]),
        Answer([trade(5), {**trade(6), "price": "NaN"}]),
        Answer(b"[" + b" " * (5 << 20) + b"]"),
    ],
    ids=["500", "502", "408", "html", "object", "repeated", "falling", "nan", "long"],
)
async def test_failure_is_tried_again(venue: RestVenue, failure: Answer) -> None:
    venue.answers = [failure, failure, trades(5)]
    async with client(binance(venue)) as history:
        assert [tick.trade_id for tick in await history.page("BTCUSDT", ONE, 5, TIME_US)] == [5]
    assert len(venue.requests) == 3


async def test_body_that_is_cut_is_tried_again(venue: RestVenue) -> None:
    venue.cut = True
    venue.answers = [trades(5), trades(5, 6)]
    async with client(binance(venue)) as history:
        assert len(await history.page("BTCUSDT", ONE, 5, TIME_US)) == 2


async def test_failures_without_end_are_given_up(venue: RestVenue) -> None:
    async with client(binance(venue)) as history:
        with pytest.raises(HistoryUnavailable, match="HTTP 500") as caught:
            await history.page("BTCUSDT", ONE, 5, TIME_US)
        assert caught.value.wait >= 0
    assert len(venue.requests) == 3


async def test_venue_that_hangs_is_given_up(venue: RestVenue) -> None:
    venue.hang = True
    async with client(binance(venue), Patience(attempts=2, timeout=0.1)) as history:
        with pytest.raises(HistoryUnavailable, match="BINANCE gave no answer"):
            await history.page("BTCUSDT", ONE, 5, TIME_US)
    assert len(venue.requests) == 2


async def test_venue_that_is_not_there_is_unavailable() -> None:
    async with open_rest() as gone:
        history = binance(gone)
    async with client(history) as asking:
        with pytest.raises(HistoryUnavailable):
            await asking.page("BTCUSDT", ONE, 5, TIME_US)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(UNKNOWN, status=400), r"HTTP 400, Invalid symbol\."),
        (Answer({"message": "x" * 1000}, status=401), "HTTP 401, x{200}$"),
    ],
)
async def test_refusal_is_not_tried_again(venue: RestVenue, answer: Answer, words: str) -> None:
    venue.answers = [answer]
    async with client(binance(venue)) as history:
        with pytest.raises(HistoryRefused, match=words):
            await history.page("NOPE", ONE, 5, TIME_US)
        assert history.pause == 0
    assert len(venue.requests) == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(b"<html>nothing here</html>", status=404), "HTTP 404, not in the venue's own words"),
        (Answer(b"\xff", status=404), "HTTP 404"),
        (Answer(status=451), "HTTP 451"),
        (Answer(status=302, Location="http://127.0.0.1:1/"), "HTTP 302"),
    ],
)
async def test_refusal_that_is_not_the_venues_own_is_no_word_about_its_trades(
    venue: RestVenue, answer: Answer, words: str
) -> None:
    """A wrong address would otherwise have every gap given up for good."""
    venue.answers = [answer]
    async with client(binance(venue)) as history:
        with pytest.raises(HistoryUnavailable, match=words):
            await history.page("NOPE", ONE, 5, TIME_US)
        assert history.pause > 0
    assert len(venue.requests) == 1


class CoinbaseBooks:
    """Trades of one product, as Coinbase pages them: one a second from id 1 on, but for some ids that are missing."""

    def __init__(self, newest: int, missing: frozenset[int] = frozenset()) -> None:
        self.ids = [trade_id for trade_id in range(1, newest + 1) if trade_id not in missing]

    def answer(self, request: web.Request) -> Answer:
        below = int(request.query.get("after", 10**12))
        found = [trade_id for trade_id in self.ids if trade_id < below]
        return Answer([self.row(trade_id) for trade_id in found[::-1][: int(request.query["limit"])]])

    def row(self, trade_id: int) -> dict[str, Any]:
        time = datetime.fromtimestamp(TIME_US / 10**6 + trade_id, UTC).isoformat()
        return {"trade_id": trade_id, "side": "buy", "size": "1", "price": "2", "time": time}


@asynccontextmanager
async def coinbase(
    venue: RestVenue, newest: int, missing: frozenset[int] = frozenset()
) -> AsyncIterator[HistoryClient]:
    venue.otherwise = CoinbaseBooks(newest, missing).answer
    async with client(replace(coinbase_history(venue.url), requests_per_second=1000)) as history:
        yield history


@pytest.mark.parametrize(
    ("from_id", "expected"),
    [(1, range(1, 1001)), (700, range(700, 1501)), (1500, range(1500, 1501)), (1501, range(0)), (9000, range(0))],
)
async def test_coinbase_page_begins_with_the_wanted_id(venue: RestVenue, from_id: int, expected: range) -> None:
    async with coinbase(venue, 1500) as history:
        ticks = await history.page("BTC-USD", ONE, from_id, TIME_US)
    assert [tick.trade_id for tick in ticks] == list(expected)


@pytest.mark.parametrize("void", [999, 1000, 1001, 1500, 3500, 50_000])
@pytest.mark.parametrize("behind", [1, 700, 40_000])
async def test_coinbase_page_shows_what_comes_after_a_void_of_any_size(
    venue: RestVenue, void: int, behind: int
) -> None:
    """Regression: a void of a thousand ids or more was answered with nothing, for ever."""
    beyond = 2000 + void
    async with coinbase(venue, beyond + behind - 1, frozenset(range(2000, beyond))) as history:
        ticks = await history.page("BTC-USD", ONE, 2000, TIME_US)
        assert [tick.trade_id for tick in ticks][:1] == [beyond]
        assert [tick.trade_id for tick in ticks] == [*range(beyond, beyond + len(ticks))]
        assert len(venue.requests) < 25


async def test_coinbase_page_with_nothing_newer_costs_two_requests(venue: RestVenue) -> None:
    async with coinbase(venue, 1500) as history:
        assert await history.page("BTC-USD", ONE, 1501, TIME_US) == []
    assert venue.paths[1:] == ["/products/BTC-USD/trades?limit=1"]


@pytest.mark.parametrize("from_id", [1001, 1200, 1499])
async def test_coinbase_server_that_lags_behind_proves_no_void(venue: RestVenue, from_id: int) -> None:
    """The first answer comes from a server that does not know the trades yet, and all others from one that does."""
    async with coinbase(venue, 40_000) as history:
        lagging = CoinbaseBooks(1000)
        up_to_date = venue.otherwise
        venue.otherwise = lambda request: (up_to_date if venue.requests[1:] else lagging.answer)(request)
        ticks = await history.page("BTC-USD", ONE, from_id, TIME_US)
    assert [tick.trade_id for tick in ticks][:1] in ([], [from_id])


@pytest.mark.parametrize("missing", [frozenset[int](), frozenset({1, 2, 40, 41, 42, 63})])
async def test_coinbase_first_id_at_a_time_is_found_by_bisection(venue: RestVenue, missing: frozenset[int]) -> None:
    async with coinbase(venue, 64, missing) as history:
        for second in (0, 1, 3, 39, 40, 43, 62, 63, 64, 65):
            expected = next((n for n in range(max(1, second), 65) if n not in missing), None)
            assert await history.first_id_at("BTC-USD", ONE, TIME_US + second * 10**6) == expected


async def test_coinbase_without_trades_has_no_first_id(venue: RestVenue) -> None:
    async with coinbase(venue, 0) as history:
        assert await history.first_id_at("BTC-USD", ONE, TIME_US) is None


def kraken_answer(request: web.Request) -> Answer:
    """A trade a millisecond from id 1 on, 5,000 of them."""
    since, count = int(request.query["since"]), int(request.query["count"])
    rows = [
        f'["2.5","1",{TIME_US + number * 1000}e-6,"b","l","",{number}]'
        for number in range(1, 5001)
        if (TIME_US + number * 1000) * 1000 > since
    ]
    return Answer(f'{{"error":[],"result":{{"XXBTZUSD":[{",".join(rows[:count])}],"last":"1"}}}}'.encode())


@asynccontextmanager
async def kraken(venue: RestVenue) -> AsyncIterator[HistoryClient]:
    venue.otherwise = kraken_answer
    async with client(replace(kraken_history(venue.url), requests_per_second=1000)) as history:
        yield history


async def test_kraken_page_drops_what_lies_before_the_wanted_id(venue: RestVenue) -> None:
    async with kraken(venue) as history:
        ticks = await history.page("BTC-USD", ONE, 8, TIME_US + 7000)
    assert [tick.trade_id for tick in ticks] == list(range(8, 1007))
    assert ticks[0].time_us == TIME_US + 8000


async def test_kraken_pages_go_on_until_the_wanted_id_is_passed(venue: RestVenue) -> None:
    async with kraken(venue) as history:
        ticks = await history.page("BTC-USD", ONE, 2500, 0)
        assert (ticks[0].trade_id, len(venue.requests)) == (2500, 3)
        assert await history.page("BTC-USD", ONE, 5001, TIME_US + 4_900_000) == []
        assert await history.first_id_at("BTC-USD", ONE, TIME_US + 2_000_000) == 2000
        assert await history.first_id_at("BTC-USD", ONE, TIME_US + 9_000_000) is None


async def test_kraken_pages_that_never_reach_the_id_are_given_up(venue: RestVenue) -> None:
    full = kraken_answer
    venue.otherwise = lambda request: full(request.clone(rel_url="/?since=0&count=1000"))
    async with client(replace(kraken_history(venue.url), requests_per_second=1000)) as history:
        with pytest.raises(HistoryRefused, match="too many trades"):
            await history.page("BTC-USD", ONE, 2500, 0)


async def test_kraken_that_is_busy_pauses_the_venue_under_http_200(venue: RestVenue) -> None:
    venue.answers = [Answer({"error": ["EGeneral:Too many requests"]})]
    async with client(kraken_history(venue.url)) as history:
        with pytest.raises(HistoryUnavailable, match="Too many requests"):
            await history.page("BTC-USD", ONE, 8, TIME_US)
        assert history.pause > 0


async def test_kraken_pair_that_is_unknown_is_refused(venue: RestVenue) -> None:
    venue.answers = [Answer({"error": ["EQuery:Unknown asset pair"]})]
    async with client(kraken_history(venue.url)) as history:
        with pytest.raises(HistoryRefused, match="Unknown asset pair"):
            await history.page("NO-PE", ONE, 8, TIME_US)


async def test_key_in_a_header_is_in_no_error(venue: RestVenue) -> None:
    history = replace(binance(venue), headers={"X-Key": "0f7e-secret"})
    assert "secret" not in repr(history)
    venue.answers = [Answer({"msg": "API-key format invalid."}, status=401)]
    async with client(history) as asking:
        with pytest.raises(HistoryRefused) as caught:
            await asking.page("BTCUSDT", ONE, 5, TIME_US)
    assert venue.requests[0].headers["X-Key"] == "0f7e-secret"
    assert "secret" not in str(caught.value)
