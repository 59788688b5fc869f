-- Reads of the market. Prices come as the server prints them; every query goes by the unique key of ticks
-- (instrument_id, time, trade_id) or by (instrument_id, bucket) of a candle level.

-- name: instruments
-- All instruments by symbol; a few hundred rows.
SELECT id, symbol, source, ticker, base, quote, kind, price_scale, feed, contiguous_ids, active
FROM market.instruments ORDER BY symbol;

-- name: track
-- Has an instrument tracked, adding it where it is new. One row.
SELECT id, symbol, source, ticker, base, quote, kind, price_scale, feed, contiguous_ids, active
FROM market.track(%(symbol)s, %(feed)s);

-- name: untrack
-- Ends the tracking of an instrument. One row, or none where it is unknown.
SELECT id, symbol, source, ticker, base, quote, kind, price_scale, feed, contiguous_ids, active
FROM market.untrack(%(symbol)s);

-- name: nearest_day
-- The newest (`order` DESC) or oldest (ASC) day of candles in a range, by (instrument_id, bucket). One row or none.
SELECT bucket FROM market.candles_1d
WHERE instrument_id = %(instrument_id)s AND bucket >= %(start)s AND bucket < %(end)s
ORDER BY bucket {order} LIMIT 1;

-- name: stored_candles
-- The newest (`order` DESC) or oldest (ASC) candles of a level in a range, nearest first, by (instrument_id, bucket).
-- At most `limit` rows. A continuous aggregate sorts all that the range holds: keep it short.
SELECT bucket, open, high, low, close, volume, quote_volume, trades, taker_buy_volume, taker_buy_quote_volume,
       first_id, last_id
FROM {level}
WHERE instrument_id = %(instrument_id)s AND bucket >= %(start)s AND bucket < %(end)s
ORDER BY bucket {order} LIMIT %(limit)s;

-- name: binned_candles
-- Candles of a fixed length out of those of a finer level in a range, the newest (`order` DESC) or oldest (ASC),
-- nearest first. Reads all the level's candles in the range by (instrument_id, bucket). At most `limit` rows.
SELECT date_bin(%(stride)s, bucket, %(origin)s) AS bucket, (array_agg(open ORDER BY first_id))[1] AS open,
       max(high) AS high, min(low) AS low, (array_agg(close ORDER BY last_id DESC))[1] AS close,
       sum(volume) AS volume, sum(quote_volume) AS quote_volume, sum(trades)::bigint AS trades,
       sum(taker_buy_volume) AS taker_buy_volume, sum(taker_buy_quote_volume) AS taker_buy_quote_volume,
       min(first_id) AS first_id, max(last_id) AS last_id
FROM {level}
WHERE instrument_id = %(instrument_id)s AND bucket >= %(start)s AND bucket < %(end)s
GROUP BY 1 ORDER BY 1 {order} LIMIT %(limit)s;

-- name: binned_ticks
-- Candles of a fixed length out of ticks in a range, the newest (`order` DESC) or oldest (ASC), nearest first. Reads
-- all ticks in the range by the unique key. At most `limit` rows.
SELECT date_bin(%(stride)s, time, %(origin)s) AS bucket, (array_agg(price ORDER BY trade_id))[1] AS open,
       max(price) AS high, min(price) AS low, (array_agg(price ORDER BY trade_id DESC))[1] AS close,
       sum(size) AS volume, sum(price * size) AS quote_volume, count(*) AS trades,
       coalesce(sum(size) FILTER (WHERE NOT buyer_is_maker), 0) AS taker_buy_volume,
       coalesce(sum(price * size) FILTER (WHERE NOT buyer_is_maker), 0) AS taker_buy_quote_volume,
       min(trade_id) AS first_id, max(trade_id) AS last_id
FROM market.ticks
WHERE instrument_id = %(instrument_id)s AND time >= %(start)s AND time < %(end)s
GROUP BY 1 ORDER BY 1 {order} LIMIT %(limit)s;

-- name: merged_candles
-- Candles between given edges, ascending, out of those of a finer level; empty ones are left out. Reads all the level's
-- candles between the first and the last edge by (instrument_id, bucket); at most one row for each pair of edges.
SELECT (%(edges)s::timestamptz[])[slot] AS bucket, (array_agg(open ORDER BY first_id))[1] AS open, max(high) AS high,
       min(low) AS low, (array_agg(close ORDER BY last_id DESC))[1] AS close, sum(volume) AS volume,
       sum(quote_volume) AS quote_volume, sum(trades)::bigint AS trades, sum(taker_buy_volume) AS taker_buy_volume,
       sum(taker_buy_quote_volume) AS taker_buy_quote_volume, min(first_id) AS first_id, max(last_id) AS last_id
FROM (
    SELECT width_bucket(bucket, %(edges)s::timestamptz[]) AS slot, open, high, low, close, volume, quote_volume, trades,
           taker_buy_volume, taker_buy_quote_volume, first_id, last_id
    FROM {level} WHERE instrument_id = %(instrument_id)s AND bucket >= %(start)s AND bucket < %(end)s
) AS candle
GROUP BY slot ORDER BY slot;

-- name: merged_hours
-- As merged_candles, for edges off the hour: out of the hours that no edge cuts, and of the minutes of those in `cut`.
-- OFFSET 0: else the server may read all minutes for each of them.
SELECT (%(edges)s::timestamptz[])[slot] AS bucket, (array_agg(open ORDER BY first_id))[1] AS open, max(high) AS high,
       min(low) AS low, (array_agg(close ORDER BY last_id DESC))[1] AS close, sum(volume) AS volume,
       sum(quote_volume) AS quote_volume, sum(trades)::bigint AS trades, sum(taker_buy_volume) AS taker_buy_volume,
       sum(taker_buy_quote_volume) AS taker_buy_quote_volume, min(first_id) AS first_id, max(last_id) AS last_id
FROM (
    SELECT width_bucket(bucket, %(edges)s::timestamptz[]) AS slot, open, high, low, close, volume, quote_volume, trades,
           taker_buy_volume, taker_buy_quote_volume, first_id, last_id
    FROM market.candles_1h
    WHERE instrument_id = %(instrument_id)s AND bucket >= %(start)s AND bucket < %(end)s
      AND bucket <> ALL(%(cut)s::timestamptz[])
    UNION ALL
    SELECT width_bucket(bucket, %(edges)s::timestamptz[]), open, high, low, close, volume, quote_volume, trades,
           taker_buy_volume, taker_buy_quote_volume, first_id, last_id
    FROM unnest(%(cut)s::timestamptz[]) AS piece (hour)
    CROSS JOIN LATERAL (
        SELECT bucket, open, high, low, close, volume, quote_volume, trades, taker_buy_volume, taker_buy_quote_volume,
               first_id, last_id
        FROM market.candles_1m
        WHERE instrument_id = %(instrument_id)s AND bucket >= %(start)s AND bucket < %(end)s
          AND bucket >= piece.hour AND bucket < piece.hour + interval '1 hour'
        OFFSET 0
    ) AS minute
) AS candle
GROUP BY slot ORDER BY slot;

-- name: merged_ticks
-- Candles between given edges, ascending, out of ticks; empty ones are left out. Reads all ticks between the first and
-- the last edge by the unique key; at most one row for each pair of edges.
SELECT (%(edges)s::timestamptz[])[slot] AS bucket, (array_agg(price ORDER BY trade_id))[1] AS open, max(price) AS high,
       min(price) AS low, (array_agg(price ORDER BY trade_id DESC))[1] AS close, sum(size) AS volume,
       sum(price * size) AS quote_volume, count(*) AS trades,
       coalesce(sum(size) FILTER (WHERE NOT buyer_is_maker), 0) AS taker_buy_volume,
       coalesce(sum(price * size) FILTER (WHERE NOT buyer_is_maker), 0) AS taker_buy_quote_volume,
       min(trade_id) AS first_id, max(trade_id) AS last_id
FROM (
    SELECT width_bucket(time, %(edges)s::timestamptz[]) AS slot, trade_id, price, size, buyer_is_maker
    FROM market.ticks WHERE instrument_id = %(instrument_id)s AND time >= %(start)s AND time < %(end)s
) AS tick
GROUP BY slot ORDER BY slot;

-- name: ticks_before
-- Ticks from `start` on and before a place (`time`, `trade_id`), exclusive, newest first, by the unique key. At most
-- `limit` rows.
SELECT trade_id, time, price, size, buyer_is_maker FROM market.ticks
WHERE instrument_id = %(instrument_id)s AND (time, trade_id) < (%(time)s, %(trade_id)s) AND time <= %(time)s
  AND time >= %(start)s
ORDER BY time DESC, trade_id DESC LIMIT %(limit)s;

-- name: ticks_after
-- Ticks after a place (`time`, `trade_id`), exclusive, and before `end`, whose id is above `after_id`, ascending, by
-- the unique key. At most `limit` rows.
SELECT trade_id, time, price, size, buyer_is_maker FROM market.ticks
WHERE instrument_id = %(instrument_id)s AND (time, trade_id) > (%(time)s, %(trade_id)s) AND time >= %(time)s
  AND time < %(end)s AND trade_id > %(after_id)s
ORDER BY time, trade_id LIMIT %(limit)s;

-- name: bucket_after_id
-- The oldest bucket of a level in a range that holds a trade id above `after_id`, by (instrument_id, bucket): reads the
-- level's candles in that range. One row; null where there is none.
SELECT min(bucket) FROM {level}
WHERE instrument_id = %(instrument_id)s AND last_id > %(after_id)s AND bucket >= %(start)s AND bucket < %(end)s;

-- name: last_ids
-- The highest trade id of each instrument, out of its two newest days of candles. A row per instrument; null without
-- ticks.
SELECT instrument.id, (
    SELECT max(last_id) FROM (
        SELECT last_id FROM market.candles_1d AS candle WHERE candle.instrument_id = instrument.id
        ORDER BY bucket DESC LIMIT 2
    ) AS newest)
FROM market.instruments AS instrument;

-- name: windows
-- What traded from `start` on: minutes up to the first whole hour and hours from there, by (instrument_id, bucket), and
-- the last tick by the unique key. Reads up to 85 candles of each instrument for 24 hours. A row for each that traded.
SELECT wanted.id, last.time, last.size, total.open, total.high, total.low, total.close, total.volume,
       total.quote_volume, total.trades, total.first_id, total.last_id
FROM unnest(%(ids)s::integer[]) AS wanted (id)
JOIN (
    SELECT instrument_id, (array_agg(open ORDER BY first_id))[1] AS open, max(high) AS high, min(low) AS low,
           (array_agg(close ORDER BY last_id DESC))[1] AS close, sum(volume) AS volume,
           sum(quote_volume) AS quote_volume, sum(trades)::bigint AS trades, min(first_id) AS first_id,
           max(last_id) AS last_id
    FROM (
        SELECT instrument_id, open, high, low, close, volume, quote_volume, trades, first_id, last_id
        FROM market.candles_1m
        WHERE instrument_id = ANY(%(ids)s) AND bucket >= %(start)s AND bucket < %(hour)s
        UNION ALL
        SELECT instrument_id, open, high, low, close, volume, quote_volume, trades, first_id, last_id
        FROM market.candles_1h WHERE instrument_id = ANY(%(ids)s) AND bucket >= %(hour)s
    ) AS candle
    GROUP BY instrument_id
) AS total ON total.instrument_id = wanted.id
CROSS JOIN LATERAL (
    SELECT time, size FROM market.ticks WHERE instrument_id = wanted.id AND time >= %(start)s
    ORDER BY time DESC, trade_id DESC LIMIT 1
) AS last;

-- name: newest_closes
-- The close of the newest minute of each instrument in a range, by (instrument_id, bucket): a continuous aggregate sorts
-- all minutes of the range. A row for each that has one.
SELECT wanted.id, newest.close FROM unnest(%(ids)s::integer[]) AS wanted (id)
CROSS JOIN LATERAL (
    SELECT close FROM market.candles_1m
    WHERE instrument_id = wanted.id AND bucket >= %(start)s AND bucket < %(end)s ORDER BY bucket DESC LIMIT 1
) AS newest;

-- name: newest_ticks
-- The newest tick of each instrument in a range, by the unique key. A row for each that has one.
SELECT wanted.id, newest.trade_id, newest.time, newest.price, newest.size, newest.buyer_is_maker
FROM unnest(%(ids)s::integer[]) AS wanted (id)
CROSS JOIN LATERAL (
    SELECT trade_id, time, price, size, buyer_is_maker FROM market.ticks
    WHERE instrument_id = wanted.id AND time >= %(start)s AND time < %(end)s
    ORDER BY time DESC, trade_id DESC LIMIT 1
) AS newest;

-- name: newest_days
-- The newest day of candles of each instrument in a range, by (instrument_id, bucket). A row for each that has one.
SELECT wanted.id, newest.bucket FROM unnest(%(ids)s::integer[]) AS wanted (id)
CROSS JOIN LATERAL (
    SELECT bucket FROM market.candles_1d
    WHERE instrument_id = wanted.id AND bucket >= %(start)s AND bucket < %(end)s ORDER BY bucket DESC LIMIT 1
) AS newest;

-- name: gaps
-- The gaps of an instrument, by the primary key, oldest first, after a place. At most `limit` rows.
SELECT from_id, to_id, from_time, to_time, state, reason, opened_at, closed_at FROM market.gaps
WHERE instrument_id = %(instrument_id)s AND from_id > %(after_id)s AND (%(state)s::text IS NULL OR state = %(state)s)
ORDER BY from_id LIMIT %(limit)s;

-- name: gaps_between
-- The gaps that were not filled and begin in a range of times, newest first, by instrument of the primary key. At most
-- `limit` rows.
SELECT from_id, to_id, from_time, to_time, state, reason, opened_at, closed_at FROM market.gaps
WHERE instrument_id = %(instrument_id)s AND state <> 'filled' AND from_time >= %(start)s AND from_time < %(end)s
ORDER BY from_id DESC LIMIT %(limit)s;

-- name: touching_gaps
-- The times of what makes candles of a range incomplete: gaps that were not filled, by instrument of the primary key,
-- and, where candles are materialised, ranges of late ticks that no refresh has covered, such as those that filled a
-- gap. A row each.
SELECT from_time, to_time FROM market.gaps
WHERE instrument_id = %(instrument_id)s AND state <> 'filled' AND from_time < %(end)s AND to_time >= %(start)s
UNION ALL
SELECT from_time, to_time FROM market.stale_ranges, ops.engine
WHERE engine = 'timescaledb' AND instrument_id = %(instrument_id)s AND from_time < %(end)s AND to_time >= %(start)s;

-- name: filled_gaps
-- The gaps of an instrument that have been filled and touch any of the ranges given, which do not overlap, by the
-- primary key. A row per gap.
SELECT DISTINCT gap.from_id, gap.to_id
FROM unnest(%(from_ids)s::bigint[], %(to_ids)s::bigint[]) AS told (from_id, to_id)
JOIN market.gaps AS gap ON gap.instrument_id = %(instrument_id)s AND gap.state = 'filled'
     AND gap.from_id <= told.to_id AND gap.to_id >= told.from_id;
