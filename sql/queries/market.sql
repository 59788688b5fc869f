-- Reads of the market. Prices come as the server prints them; every query goes by the unique key of ticks
-- (instrument_id, time, trade_id) or by (instrument_id, bucket) of a candle level.

-- name: instruments
-- All instruments by symbol; a few hundred rows.
SELECT id, symbol, source, ticker, base, quote, kind, price_scale, feed, contiguous_ids, active
FROM market.instruments ORDER BY symbol;

-- name: newest_bucket
-- The newest bucket of a level in a range, by (instrument_id, bucket). One row or none.
SELECT bucket FROM {level} WHERE instrument_id = %(instrument_id)s AND bucket >= %(start)s AND bucket < %(end)s ORDER BY bucket DESC LIMIT 1;

-- name: oldest_bucket
-- The oldest bucket of a level in a range, by (instrument_id, bucket). One row or none.
SELECT bucket FROM {level} WHERE instrument_id = %(instrument_id)s AND bucket >= %(start)s AND bucket < %(end)s ORDER BY bucket LIMIT 1;

-- name: newest_tick_time
-- The time of the newest tick in a range, by the unique key. One row or none.
SELECT time FROM market.ticks WHERE instrument_id = %(instrument_id)s AND time >= %(start)s AND time < %(end)s ORDER BY time DESC LIMIT 1;

-- name: oldest_tick_time
-- The time of the oldest tick in a range, by the unique key. One row or none.
SELECT time FROM market.ticks WHERE instrument_id = %(instrument_id)s AND time >= %(start)s AND time < %(end)s ORDER BY time LIMIT 1;

-- name: newest_candles
-- The newest candles of a level in a range, newest first, by (instrument_id, bucket). At most `limit` rows.
SELECT bucket, open, high, low, close, volume, quote_volume, trades, taker_buy_volume, taker_buy_quote_volume, first_id, last_id
FROM {level}
WHERE instrument_id = %(instrument_id)s AND bucket >= %(start)s AND bucket < %(end)s
ORDER BY bucket DESC LIMIT %(limit)s;

-- name: oldest_candles
-- The oldest candles of a level in a range, ascending, by (instrument_id, bucket). At most `limit` rows.
SELECT bucket, open, high, low, close, volume, quote_volume, trades, taker_buy_volume, taker_buy_quote_volume, first_id, last_id
FROM {level}
WHERE instrument_id = %(instrument_id)s AND bucket >= %(start)s AND bucket < %(end)s
ORDER BY bucket LIMIT %(limit)s;

-- name: merged_candles
-- Candles between given edges, ascending, out of those of a finer level; empty ones are left out. Reads all the level's
-- candles between the first and the last edge by (instrument_id, bucket); at most one row for each pair of edges.
SELECT (%(edges)s::timestamptz[])[slot] AS bucket, (array_agg(open ORDER BY first_id))[1] AS open, max(high) AS high, min(low) AS low,
       (array_agg(close ORDER BY last_id DESC))[1] AS close, sum(volume) AS volume, sum(quote_volume) AS quote_volume,
       sum(trades)::bigint AS trades, sum(taker_buy_volume) AS taker_buy_volume,
       sum(taker_buy_quote_volume) AS taker_buy_quote_volume, min(first_id) AS first_id, max(last_id) AS last_id
FROM (
    SELECT width_bucket(bucket, %(edges)s::timestamptz[]) AS slot, open, high, low, close, volume, quote_volume, trades, taker_buy_volume,
           taker_buy_quote_volume, first_id, last_id
    FROM {level} WHERE instrument_id = %(instrument_id)s AND bucket >= %(start)s AND bucket < %(end)s
) AS candle
GROUP BY slot ORDER BY slot;

-- name: merged_ticks
-- Candles between given edges, ascending, out of ticks; empty ones are left out. Reads all ticks between the first and the
-- last edge by the unique key; at most one row for each pair of edges.
SELECT (%(edges)s::timestamptz[])[slot] AS bucket, (array_agg(price ORDER BY trade_id))[1] AS open, max(price) AS high, min(price) AS low,
       (array_agg(price ORDER BY trade_id DESC))[1] AS close, sum(size) AS volume, sum(price * size) AS quote_volume,
       count(*) AS trades, coalesce(sum(size) FILTER (WHERE NOT buyer_is_maker), 0) AS taker_buy_volume,
       coalesce(sum(price * size) FILTER (WHERE NOT buyer_is_maker), 0) AS taker_buy_quote_volume,
       min(trade_id) AS first_id, max(trade_id) AS last_id
FROM (
    SELECT width_bucket(time, %(edges)s::timestamptz[]) AS slot, trade_id, price, size, buyer_is_maker
    FROM market.ticks WHERE instrument_id = %(instrument_id)s AND time >= %(start)s AND time < %(end)s
) AS tick
GROUP BY slot ORDER BY slot;

-- name: ticks_before
-- Ticks before a place (`time`, `trade_id`), exclusive, newest first, by the unique key. At most `limit` rows.
SELECT trade_id, time, price, size, buyer_is_maker FROM market.ticks
WHERE instrument_id = %(instrument_id)s AND (time, trade_id) < (%(time)s, %(trade_id)s) AND time <= %(time)s AND time >= %(start)s
ORDER BY time DESC, trade_id DESC LIMIT %(limit)s;

-- name: ticks_after
-- Ticks after a place (`time`, `trade_id`), exclusive, whose id is above `after_id`, ascending, by the unique key. At most
-- `limit` rows.
SELECT trade_id, time, price, size, buyer_is_maker FROM market.ticks
WHERE instrument_id = %(instrument_id)s AND (time, trade_id) > (%(time)s, %(trade_id)s) AND time >= %(time)s AND time < %(end)s
  AND trade_id > %(after_id)s
ORDER BY time, trade_id LIMIT %(limit)s;

-- name: bucket_after_id
-- The oldest bucket of a level in a range that holds a trade id above `after_id`, by (instrument_id, bucket): reads the level's
-- candles in that range. One row; null where there is none.
SELECT min(bucket) FROM {level}
WHERE instrument_id = %(instrument_id)s AND last_id > %(after_id)s AND bucket >= %(start)s AND bucket < %(end)s;

-- name: last_tick
-- The last tick at or before a time, by the unique key. One row or none.
SELECT trade_id, time, price, size, buyer_is_maker FROM market.ticks
WHERE instrument_id = %(instrument_id)s AND time <= %(at)s ORDER BY time DESC, trade_id DESC LIMIT 1;

-- name: last_ids
-- The highest trade id of each instrument in its newest day of candles. A row per instrument that has ticks.
SELECT instrument.id, (SELECT last_id FROM market.candles_1d AS candle WHERE candle.instrument_id = instrument.id ORDER BY bucket DESC LIMIT 1)
FROM market.instruments AS instrument;

-- name: day_summary
-- The last 24 hours out of minute candles, by (instrument_id, bucket). One row; trades is null where there were none.
SELECT (array_agg(open ORDER BY bucket))[1], max(high), min(low), (array_agg(close ORDER BY bucket DESC))[1], sum(volume), sum(quote_volume),
       sum(trades)::bigint, min(first_id), max(last_id)
FROM market.candles_1m WHERE instrument_id = %(instrument_id)s AND bucket >= %(start)s;

-- name: gaps
-- The gaps of an instrument, by the primary key, oldest first, after a place. At most `limit` rows.
SELECT from_id, to_id, from_time, to_time, state, opened_at, closed_at FROM market.gaps
WHERE instrument_id = %(instrument_id)s AND from_id > %(after_id)s AND (%(state)s::text IS NULL OR state = %(state)s)
ORDER BY from_id LIMIT %(limit)s;
