"""What Binance's dialect costs beside our own: a request for 500 klines, and clients of the kline stream."""

import http.client
import json
import os
import time
from statistics import median

import psycopg

from tests.bench.fanout import trade
from tests.bench.harness import Database, Figure, add_instrument, cpu_seconds, process, serve

PORT = 18_440
ROWS = 500
REQUESTS = 400
CLIENTS = 500
TICKS = 6_000
UNLIMITED = ("--request-weight", "1000000000", "--connection-limit", "1000000")
CANDLES = f"/api/v1/candles/BENCH:KLINES?interval=1m&limit={ROWS}"
KLINES = f"/api/v3/klines?symbol=KLINES&interval=1m&limit={ROWS}"
SUBSCRIBE = '{"op":"subscribe","channel":"candles","symbols":["BENCH:%s"],"interval":"1m"}'
STREAM = "/stream?streams=%s@kline_1m"
LIST = '{"method":"LIST_SUBSCRIPTIONS","id":1}'


def figures(db: Database) -> list[Figure]:
    _fill(db)
    with serve(db, PORT, options=UNLIMITED):
        klines, candles = _requests()
    native = _follow(db, "FOLLOWONE", "/api/v1/stream", SUBSCRIBE % "FOLLOWONE", f'"last_id":{TICKS},')
    ours = _follow(db, "FOLLOWTWO", STREAM % "followtwo", LIST, f'"L":{TICKS},')
    clients = f"CPU of {CLIENTS} clients of one-minute klines, {TICKS:,} ticks in 6 s"
    return [
        Figure(
            f"{ROWS} klines at /api/v3, beside candles at /api/v1",
            f"{klines * 1e3:.2f} ms",
            f"{candles * 1e3:.2f} ms",
            f"{klines / candles:.2f}",
            "≤ 1.2",
        ),
        Figure(clients, f"{ours:.2f} s", f"{native:.2f} s", f"{ours / native:.2f}", "≤ 1.2"),
    ]


def _fill(db: Database) -> None:
    """Ten hours of a hundred trades a minute, their candles refreshed."""
    instrument_id = add_instrument(db.operator, "KLINES")
    with psycopg.connect(db.writer, autocommit=True) as conn:
        conn.execute("SELECT market.make_room(array_agg(current_date - i)) FROM generate_series(-1, 1) AS i")
        conn.execute(
            "INSERT INTO market.ticks (time, instrument_id, trade_id, price, size, buyer_is_maker)"
            " SELECT now() - interval '10 hours' + i * interval '0.6 s', %s, i, 39432.48000000 + i %% 1000, 0.00026300,"
            " i %% 2 = 0 FROM generate_series(1, 60000) AS i",
            (instrument_id,),
        )
        if db.engine == "timescaledb":
            conn.execute("DELETE FROM market.stale_ranges")
            for level in ("1m", "1h", "1d"):
                until = "now() - interval '2 minutes'"
                conn.execute(f"CALL refresh_continuous_aggregate('market.candles_{level}', NULL, {until})")


def _requests() -> tuple[float, float]:
    """The median seconds of either request, asked in turns on a connection kept alive."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT)
    durations: dict[str, list[float]] = {KLINES: [], CANDLES: []}
    for _ in range(REQUESTS):
        for path, taken in durations.items():
            started = time.perf_counter()
            connection.request("GET", path)
            answer = json.loads(connection.getresponse().read())
            taken.append(time.perf_counter() - started)
            assert len(answer if path == KLINES else answer["candles"]) == ROWS, answer
    return median(durations[KLINES]), median(durations[CANDLES])


def _follow(db: Database, ticker: str, path: str, message: str, marker: str) -> float:
    """The server's CPU seconds from the first tick until all clients have the candle with the last."""
    cores = sorted(os.sched_getaffinity(0))
    instrument_id = add_instrument(db.operator, ticker)
    with serve(db, PORT, cores[0], options=UNLIMITED) as server:
        arguments = ("-m", "tests.bench.readers", str(PORT), path, message, str(CLIENTS), marker)
        with process(*arguments, core=cores[-1], wait_for="ready") as readers:
            before = cpu_seconds(server.pid)
            trade(db, instrument_id, TICKS)
            assert readers.stdout is not None
            assert readers.stdout.readline().startswith("done")
            return cpu_seconds(server.pid) - before
