-- Limits that hold over all processes, by the primary key of ops.usage.

-- name: spend
-- Adds a cost to what a subject has used of a limit in the window of the clock, whose windows are aligned to the epoch.
-- A row that waited for another's lock may have been overtaken by the turn of the window: it counts in the next one. A
-- row of any other window is over, or was written before the clock was set back. One row.
WITH clock AS MATERIALIZED (
    SELECT at, date_bin(length, at, 'epoch') + length AS window_end, length
    FROM coalesce(%(at)s::timestamptz, clock_timestamp()) AS at, make_interval(secs => %(window_seconds)s) AS length
)
INSERT INTO ops.usage AS kept (limit_name, subject, window_end, used)
SELECT %(limit)s, %(subject)s, window_end, %(cost)s FROM clock
ON CONFLICT (limit_name, subject) DO UPDATE SET (window_end, used) = (
    SELECT CASE WHEN same THEN kept.window_end ELSE excluded.window_end END,
           CASE WHEN same THEN kept.used ELSE 0 END + excluded.used
    FROM clock, LATERAL (SELECT kept.window_end IN (clock.window_end, clock.window_end + length)) AS is_it (same)
)
RETURNING used, ceil(extract(epoch FROM window_end - (SELECT at FROM clock)))::integer AS seconds_left;

-- name: forget
-- Deletes the rows of windows that are over.
DELETE FROM ops.usage WHERE window_end <= clock_timestamp();
