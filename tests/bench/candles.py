"""A candles request, beside the bare query, and as the ticks grow."""

import http.client
import json
import time
from statistics import median

import msgspec
import psycopg
from psycopg.types.string import TextLoader

from tests.bench.harness import Database, Figure, add_instrument, serve

PORT = 18_431
ROWS = 500
REQUESTS = 300
CHUNK = 500_000
DAYS = 10

FILL = """
INSERT INTO market.ticks (time, instrument_id, trade_id, price, size, buyer_is_maker)
SELECT date_trunc('minute', now()) + interval '3 minutes' - interval '%(days)s days'
         + i * interval '%(days)s days' / %(total)s, %(id)s, i,
       (39000 + i %% 1000)::numeric(20, 8), 0.00100000, i %% 2 = 0
FROM generate_series(%(start)s::bigint, %(end)s::bigint) AS i
"""

QUERY = """
SELECT bucket, open, high, low, close, volume, quote_volume, trades, taker_buy_volume, taker_buy_quote_volume, first_id,
       last_id
FROM market.candles_1m WHERE instrument_id = %s AND bucket >= now() - interval '500 minutes'
ORDER BY bucket DESC LIMIT %s
"""


def figures(db: Database) -> list[Figure]:
    small = _fill(db, "ONE", 1_000_000)
    large = _fill(db, "TEN", 10_000_000)
    _refresh(db)
    with serve(db, PORT):
        at_1m, at_10m = _requests("ONE"), _requests("TEN")
    bare = _bare(db, large)
    _bare(db, small)
    return [
        Figure(
            "candles request, 500 rows, 10 M ticks",
            f"{1 / at_10m:,.0f}/s",
            f"{1 / bare:,.0f}/s",
            f"{bare / at_10m:.2f}",
            "≥ 0.5",
        ),
        Figure(
            "the same as ticks grow 1 M → 10 M",
            f"{at_10m * 1e3:.2f} ms",
            f"{at_1m * 1e3:.2f} ms",
            f"{at_10m / at_1m:.2f}",
            "≤ 1.3",
        ),
    ]


def _fill(db: Database, ticker: str, total: int) -> int:
    """Ticks spread evenly over ten days up to a little after now, their candles refreshed."""
    instrument_id = add_instrument(db.operator, ticker)
    with psycopg.connect(db.writer, autocommit=True) as conn:
        conn.execute("SELECT market.make_room(array_agg(current_date - i)) FROM generate_series(-1, %s) AS i", (DAYS,))
        for start in range(1, total + 1, CHUNK):
            with conn.transaction():
                conn.execute("SET LOCAL tickwick.quiet = 'on'")
                values = {"days": DAYS, "total": total, "id": instrument_id, "start": start, "end": start + CHUNK - 1}
                conn.execute(psycopg.sql.SQL(FILL % values))
    with psycopg.connect(db.operator, autocommit=True) as conn:
        conn.execute("VACUUM ANALYZE market.ticks")
    return instrument_id


def _refresh(db: Database) -> None:
    """Materialise what the policies would have."""
    with psycopg.connect(db.writer, autocommit=True) as conn:
        conn.execute("DELETE FROM market.stale_ranges")
        if db.engine == "timescaledb":
            for level in ("1m", "1h", "1d"):
                until = "now() - interval '2 minutes'"
                conn.execute(f"CALL refresh_continuous_aggregate('market.candles_{level}', NULL, {until})")


def _requests(ticker: str) -> float:
    """The median seconds of one request on a connection kept alive."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT)
    durations = []
    for _ in range(REQUESTS):
        started = time.perf_counter()
        connection.request("GET", f"/api/v1/candles/BENCH:{ticker}?interval=1m&limit={ROWS}")
        body = connection.getresponse().read()
        durations.append(time.perf_counter() - started)
    assert len(json.loads(body)["candles"]) == ROWS
    return median(durations)


def _bare(db: Database, instrument_id: int) -> float:
    """The median seconds of the query alone: psycopg, then msgspec."""
    durations = []
    with psycopg.connect(db.app, autocommit=True, options="-c timezone=UTC") as conn:
        conn.adapters.register_loader("numeric", TextLoader)
        for _ in range(REQUESTS):
            started = time.perf_counter()
            rows = conn.execute(QUERY, (instrument_id, ROWS)).fetchall()
            msgspec.json.encode(rows)
            durations.append(time.perf_counter() - started)
    assert len(rows) == ROWS
    return median(durations)
