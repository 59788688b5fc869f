-- Ranges of trade ids that are missing: opened by the writer and by backfill, closed as they fill or prove unfillable.

-- name: open_gap
INSERT INTO market.gaps (instrument_id, from_id, to_id, from_time, to_time)
VALUES (%(instrument_id)s, %(from_id)s, %(to_id)s, %(from_time)s, %(to_time)s) ON CONFLICT DO NOTHING;

-- name: fill_gaps
-- Closes the open gaps whose ids have all arrived since: by the index of open gaps, and, for each, the unique key of
-- ticks, five seconds beyond its times: the further, the more there is to read. A repair looks a minute beyond.
UPDATE market.gaps AS gap SET state = 'filled', closed_at = now()
WHERE state = 'open' AND to_id - from_id + 1 = (
    SELECT count(DISTINCT tick.trade_id) FROM market.ticks AS tick
    WHERE tick.instrument_id = gap.instrument_id AND tick.trade_id BETWEEN gap.from_id AND gap.to_id
      AND tick.time BETWEEN gap.from_time - interval '5 seconds' AND gap.to_time + interval '5 seconds');

-- name: due_gaps
-- Open gaps of some instruments that opened at least `patience` ago, or, since clocks are set back, in the future, but
-- for some that begin at given ids; the smallest first, by the index of open gaps. At most 100 rows.
SELECT instrument_id, from_id, to_id, from_time, to_time FROM market.gaps
WHERE state = 'open' AND instrument_id = ANY(%(instrument_ids)s) AND opened_at NOT BETWEEN now() - %(patience)s::interval AND now()
  AND (instrument_id, from_id) NOT IN (SELECT * FROM unnest(%(postponed)s::int[], %(postponed_ids)s::bigint[]))
ORDER BY to_id - from_id, instrument_id, from_id LIMIT 100;

-- name: open_gaps_between
-- Open gaps of an instrument that touch a range of ids, the smallest first, by the index of open gaps. At most 100 rows.
SELECT instrument_id, from_id, to_id, from_time, to_time FROM market.gaps
WHERE state = 'open' AND instrument_id = %(instrument_id)s AND from_id <= %(to_id)s AND to_id >= %(from_id)s
ORDER BY to_id - from_id, instrument_id, from_id LIMIT 100;

-- name: open_span
-- From the first to the last id of an instrument's open gaps, by the index of open gaps. One row, or none.
SELECT instrument_id, min(from_id), max(to_id), min(from_time), max(to_time) FROM market.gaps
WHERE state = 'open' AND instrument_id = %(instrument_id)s GROUP BY instrument_id;

-- name: missing_ids
-- The ids of a range that are neither stored nor known to be unfillable, as ranges, ascending, with the times of the
-- ticks around each. Reads the ticks stored there by the unique key, a minute beyond the range's times. At most 100 rows.
WITH known AS (
    SELECT trade_id AS first_id, trade_id AS last_id, time AS starts, time AS ends FROM market.ticks
    WHERE instrument_id = %(instrument_id)s AND trade_id BETWEEN %(from_id)s AND %(to_id)s
      AND time BETWEEN %(from_time)s::timestamptz - interval '1 minute' AND %(to_time)s::timestamptz + interval '1 minute'
    UNION ALL
    SELECT from_id, to_id, to_time, from_time FROM market.gaps
    WHERE instrument_id = %(instrument_id)s AND from_id <= %(to_id)s AND to_id >= %(from_id)s AND state = 'unfillable'
    UNION ALL
    SELECT %(to_id)s::bigint + 1, %(to_id)s::bigint + 1, %(to_time)s, %(to_time)s
), walked AS (
    SELECT first_id, starts, greatest(max(last_id) OVER earlier, %(from_id)s::bigint - 1) AS before_id,
           coalesce(last_value(ends) OVER earlier, %(from_time)s) AS before_time
    FROM known WINDOW earlier AS (ORDER BY first_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
)
SELECT %(instrument_id)s, before_id + 1, first_id - 1, before_time, starts FROM walked
WHERE first_id > before_id + 1 ORDER BY first_id LIMIT 100;

-- name: open_missing
-- Opens a gap for each range of ids, within one of ids and times, that is neither stored nor in an open or unfillable
-- gap. Reads what is stored there, by the unique key. A row per gap opened.
WITH known AS (
    SELECT trade_id AS first_id, trade_id AS last_id, time AS starts, time AS ends FROM market.ticks
    WHERE instrument_id = %(instrument_id)s AND trade_id BETWEEN %(from_id)s AND %(to_id)s
      AND time BETWEEN %(from_time)s::timestamptz - interval '1 minute' AND %(to_time)s::timestamptz + interval '1 minute'
    UNION ALL
    SELECT from_id, to_id, to_time, from_time FROM market.gaps
    WHERE instrument_id = %(instrument_id)s AND from_id <= %(to_id)s AND to_id >= %(from_id)s AND state <> 'filled'
    UNION ALL
    SELECT %(to_id)s::bigint + 1, %(to_id)s::bigint + 1, %(to_time)s, %(to_time)s
), walked AS (
    SELECT first_id, starts, greatest(max(last_id) OVER earlier, %(from_id)s::bigint - 1) AS before_id,
           coalesce(last_value(ends) OVER earlier, %(from_time)s) AS before_time
    FROM known WINDOW earlier AS (ORDER BY first_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
)
INSERT INTO market.gaps AS gap (instrument_id, from_id, to_id, from_time, to_time)
SELECT %(instrument_id)s, before_id + 1, first_id - 1, before_time, starts FROM walked WHERE first_id > before_id + 1
ON CONFLICT (instrument_id, from_id, to_id) DO UPDATE
SET state = 'open', opened_at = now(), closed_at = NULL, reason = NULL WHERE gap.state = 'filled';

-- name: take_gap
-- Removes an open gap, to put the pieces that it is cut into in its place; by the primary key. One row, or none where
-- the gap was closed meanwhile.
DELETE FROM market.gaps
WHERE instrument_id = %(instrument_id)s AND from_id = %(from_id)s AND to_id = %(to_id)s AND state = 'open'
RETURNING opened_at;

-- name: put_gap
-- A piece of a gap that was taken, as old as that; where there is such a gap already, it takes the piece's state.
INSERT INTO market.gaps (instrument_id, from_id, to_id, from_time, to_time, state, reason, opened_at, closed_at)
VALUES (%(instrument_id)s, %(from_id)s, %(to_id)s, %(from_time)s, %(to_time)s, %(state)s, %(reason)s, %(opened_at)s,
        CASE WHEN %(state)s <> 'open' THEN now() END)
ON CONFLICT (instrument_id, from_id, to_id) DO UPDATE
SET state = excluded.state, reason = excluded.reason, closed_at = excluded.closed_at;

-- name: count_ids
-- How many ids of a range are stored, and how many are known to be unfillable. Reads the ticks stored there, by the
-- unique key. One row.
SELECT (SELECT count(DISTINCT trade_id) FROM market.ticks
        WHERE instrument_id = %(instrument_id)s AND trade_id BETWEEN %(from_id)s AND %(to_id)s
          AND time BETWEEN %(from_time)s::timestamptz - interval '1 minute' AND %(to_time)s::timestamptz + interval '1 minute'),
       (SELECT coalesce(sum(upper(piece) - lower(piece)), 0)::bigint
        FROM (SELECT unnest(range_agg(int8range(greatest(from_id, %(from_id)s), least(to_id, %(to_id)s), '[]'))) AS piece
              FROM market.gaps
              WHERE instrument_id = %(instrument_id)s AND from_id <= %(to_id)s AND to_id >= %(from_id)s
                AND state = 'unfillable') AS pieces);

-- name: lock_repair
-- Takes the right to repair an instrument, of which one process at a time has it. One row.
SELECT pg_try_advisory_lock(hashtext('tickwick.repair'), %(instrument_id)s);

-- name: unlock_repair
SELECT pg_advisory_unlock(hashtext('tickwick.repair'), %(instrument_id)s);
