-- Reads by trade id, for clients that page by it. Ticks have no index by id: the first and last ids of candles tell
-- where to look.

-- name: buckets_of_ids
-- The buckets of a level in a range that may hold one of some trade ids, by (instrument_id, bucket): reads the level's
-- candles in that range. Mostly one or two rows.
SELECT bucket FROM {level}
WHERE instrument_id = %(instrument_id)s AND first_id <= %(to_id)s AND last_id >= %(from_id)s
  AND bucket >= %(start)s AND bucket < %(end)s;

-- name: ticks_of_ids
-- Ticks of some trade ids in a range of time, by the unique key: reads all ticks in that range.
SELECT trade_id, time, price, size, buyer_is_maker FROM market.ticks
WHERE instrument_id = %(instrument_id)s AND time >= %(start)s AND time < %(end)s
  AND trade_id BETWEEN %(from_id)s AND %(to_id)s;

-- name: gap_under_repair
-- The first id from `from_id` on that is missing, and may be fetched any moment: gaps that were opened within a minute,
-- by instrument of the primary key. One row; null where there is none.
SELECT min(greatest(from_id, %(from_id)s)) FROM market.gaps
WHERE instrument_id = %(instrument_id)s AND state = 'open' AND to_id >= %(from_id)s
  AND opened_at > clock_timestamp() - interval '1 minute';
