-- What `tickwick doctor` looks at and mends; see ingest/doctor/. Ticks and candles are read for one instrument and at
-- most a day at a time, by the unique key of ticks and by (instrument_id, bucket) of a candle level.

-- name: chosen_engine
-- The engine this database was migrated for, who asks, and whether this is a standby. One row.
SELECT engine, current_user AS role, pg_is_in_recovery() AS standby FROM ops.engine;

-- name: wanted_instruments
-- The instruments of some symbols or bare tickers; all of them for null. A few hundred rows.
SELECT id, symbol, ticker, contiguous_ids FROM market.instruments
WHERE %(names)s::text[] IS NULL OR symbol = ANY(%(names)s) OR ticker = ANY(%(names)s) ORDER BY symbol;

-- name: extent
-- The first and the last time of an instrument's ticks and candles in a range. One row; nulls where there is none.
SELECT min(time) AS first, max(time) AS last
FROM (
    (SELECT time FROM market.ticks WHERE instrument_id = %(instrument_id)s AND time >= %(start)s AND time < %(end)s
     ORDER BY time LIMIT 1)
    UNION ALL
    (SELECT time FROM market.ticks WHERE instrument_id = %(instrument_id)s AND time >= %(start)s AND time < %(end)s
     ORDER BY time DESC LIMIT 1)
    UNION ALL
    SELECT unnest(ARRAY[min(bucket), max(bucket)]) FROM market.candles_1h
    WHERE instrument_id = %(instrument_id)s AND bucket >= %(start)s AND bucket < %(end)s
    UNION ALL
    SELECT unnest(ARRAY[min(bucket), max(bucket)]) FROM market.candles_1d
    WHERE instrument_id = %(instrument_id)s AND bucket >= %(start)s AND bucket < %(end)s
) AS known;

-- name: tick_before
-- The time of the last tick before a time, by the unique key. One row or none.
SELECT time FROM market.ticks WHERE instrument_id = %(instrument_id)s AND time < %(time)s ORDER BY time DESC LIMIT 1;

-- name: anomalies
-- Part of others: where the ids of a piece are not what they should be, each by the tick after it. kind `jump`: ids
-- from_id..to_id are neither stored nor in a gap that is open or unfillable; `order`: from_id is more than `slack` later
-- than to_id, the next one; `twice`: an id is stored with two times. Reads the ticks of the piece and of `slack` around
-- it, and those beside the last tick before (`opening`), in order of ids.
WITH pair AS (
    SELECT lag(trade_id) OVER ids AS before_id, lag(time) OVER ids AS before_time, trade_id, time
    FROM market.ticks
    WHERE instrument_id = %(instrument_id)s AND time >= %(opening)s AND time < %(end)s::timestamptz + %(slack)s
    WINDOW ids AS (ORDER BY trade_id, time)
), odd AS (
    SELECT CASE WHEN before_id = trade_id THEN 'twice' WHEN before_time > time + %(slack)s THEN 'order' ELSE 'jump' END
           AS kind, before_id, before_time, trade_id, time
    FROM pair
    WHERE (before_id = trade_id OR before_time > time + %(slack)s OR (before_id < trade_id - 1 AND %(contiguous)s))
      AND greatest(before_time, time) >= %(start)s AND greatest(before_time, time) < %(end)s
)
SELECT kind, before_id AS from_id, trade_id AS to_id, before_time AS from_time, time AS to_time
FROM odd WHERE kind <> 'jump'
UNION ALL
SELECT kind, lower(missing), upper(missing) - 1, least(before_time, time), greatest(before_time, time)
FROM odd
CROSS JOIN LATERAL (
    SELECT range_agg(int8range(greatest(gap.from_id, before_id + 1), least(gap.to_id, trade_id - 1) + 1)) AS ids
    FROM market.gaps AS gap
    WHERE gap.instrument_id = %(instrument_id)s AND gap.state <> 'filled'
      AND gap.from_id < trade_id AND gap.to_id > before_id
) AS explained
CROSS JOIN LATERAL unnest(
    int8multirange(int8range(before_id + 1, trade_id)) - coalesce(explained.ids, int8multirange())) AS missing
WHERE kind = 'jump';

-- name: examples_of_anomalies
-- The first few anomalies of each kind in a piece, and how many there are: at most `examples` rows of a kind.
SELECT kind, from_id, to_id, from_time, to_time, count, ids
FROM (
    SELECT kind, from_id, to_id, from_time, to_time, count(*) OVER kinds AS count,
           sum(to_id::numeric - from_id + 1) OVER kinds AS ids,
           row_number() OVER (PARTITION BY kind ORDER BY to_id, from_id) AS number
    FROM ({anomalies}) AS anomaly WINDOW kinds AS (PARTITION BY kind)
) AS numbered
WHERE number <= %(examples)s ORDER BY kind, number;

-- name: open_unexplained
-- Opens a gap for each unexplained jump of a piece; a gap of the same ids that was called filled is open again. The row
-- count tells how many.
INSERT INTO market.gaps AS gap (instrument_id, from_id, to_id, from_time, to_time)
SELECT %(instrument_id)s, from_id, to_id, from_time, to_time FROM ({anomalies}) AS anomaly WHERE kind = 'jump'
ON CONFLICT (instrument_id, from_id, to_id) DO UPDATE SET state = 'open', closed_at = NULL WHERE gap.state = 'filled';

-- name: differences
-- Part of others: the candles of an instrument and a UTC day that are not what they should be. Minutes are reckoned from
-- ticks, hours from minutes, days from hours. A candle that knows more trades than what it is reckoned from may be all
-- that is left of them, so the level above counts it as it stands, and it cannot be rebuilt; unless its own ids prove
-- that it counted twice. kind `missing`, `surplus` (nothing it could be made of), `twice`, `different` (then `columns`
-- names what differs). `waits`: a late tick touched it and its refresh is still to come. The rest of the row is the
-- candle as reckoned. Reads the day's ticks once; at most 1,465 rows.
WITH reckoned_1m AS MATERIALIZED (
    SELECT date_trunc('minute', time, 'UTC') AS bucket, (array_agg(price ORDER BY trade_id, time))[1] AS open,
           max(price) AS high, min(price) AS low, (array_agg(price ORDER BY trade_id DESC, time))[1] AS close,
           sum(size) AS volume, sum(price * size) AS quote_volume, count(*) AS trades,
           coalesce(sum(size) FILTER (WHERE NOT buyer_is_maker), 0) AS taker_buy_volume,
           coalesce(sum(price * size) FILTER (WHERE NOT buyer_is_maker), 0) AS taker_buy_quote_volume,
           min(trade_id) AS first_id, max(trade_id) AS last_id
    FROM market.ticks WHERE instrument_id = %(instrument_id)s AND time >= %(start)s AND time < %(end)s GROUP BY 1
), stored AS MATERIALIZED (
    SELECT '1m' AS level, bucket, open, high, low, close, volume, quote_volume, trades, taker_buy_volume,
           taker_buy_quote_volume, first_id, last_id
    FROM market.candles_1m WHERE instrument_id = %(instrument_id)s AND bucket >= %(start)s AND bucket < %(end)s
    UNION ALL
    SELECT '1h', bucket, open, high, low, close, volume, quote_volume, trades, taker_buy_volume,
           taker_buy_quote_volume, first_id, last_id
    FROM market.candles_1h WHERE instrument_id = %(instrument_id)s AND bucket >= %(start)s AND bucket < %(end)s
    UNION ALL
    SELECT '1d', bucket, open, high, low, close, volume, quote_volume, trades, taker_buy_volume,
           taker_buy_quote_volume, first_id, last_id
    FROM market.candles_1d WHERE instrument_id = %(instrument_id)s AND bucket >= %(start)s AND bucket < %(end)s
), credible AS (
    SELECT stored.* FROM stored WHERE NOT (%(contiguous)s AND trades - 1 > last_id - first_id)
), minutes AS (
    SELECT DISTINCT ON (bucket) * FROM (
        SELECT 0 AS origin, '1m' AS level, reckoned_1m.* FROM reckoned_1m
        UNION ALL SELECT 1, credible.* FROM credible WHERE level = '1m') AS known
    ORDER BY bucket, trades DESC, origin
), reckoned_1h AS MATERIALIZED (
    SELECT date_trunc('hour', bucket, 'UTC') AS bucket, (array_agg(open ORDER BY first_id))[1] AS open,
           max(high) AS high, min(low) AS low, (array_agg(close ORDER BY last_id DESC))[1] AS close,
           sum(volume) AS volume, sum(quote_volume) AS quote_volume, sum(trades)::bigint AS trades,
           sum(taker_buy_volume) AS taker_buy_volume, sum(taker_buy_quote_volume) AS taker_buy_quote_volume,
           min(first_id) AS first_id, max(last_id) AS last_id
    FROM minutes GROUP BY 1
), hours AS (
    SELECT DISTINCT ON (bucket) * FROM (
        SELECT 0 AS origin, '1h' AS level, reckoned_1h.* FROM reckoned_1h
        UNION ALL SELECT 1, credible.* FROM credible WHERE level = '1h') AS known
    ORDER BY bucket, trades DESC, origin
), reckoned_1d AS MATERIALIZED (
    SELECT date_trunc('day', bucket, 'UTC') AS bucket, (array_agg(open ORDER BY first_id))[1] AS open,
           max(high) AS high, min(low) AS low, (array_agg(close ORDER BY last_id DESC))[1] AS close,
           sum(volume) AS volume, sum(quote_volume) AS quote_volume, sum(trades)::bigint AS trades,
           sum(taker_buy_volume) AS taker_buy_volume, sum(taker_buy_quote_volume) AS taker_buy_quote_volume,
           min(first_id) AS first_id, max(last_id) AS last_id
    FROM hours GROUP BY 1
), reckoned AS MATERIALIZED (
    SELECT '1m' AS level, reckoned_1m.* FROM reckoned_1m
    UNION ALL SELECT '1h', reckoned_1h.* FROM reckoned_1h
    UNION ALL SELECT '1d', reckoned_1d.* FROM reckoned_1d
), odd AS (
    SELECT level, bucket FROM (TABLE reckoned EXCEPT ALL TABLE stored) AS lacking
    UNION
    SELECT level, bucket FROM (TABLE stored EXCEPT ALL TABLE reckoned) AS wrong
), found AS (
    SELECT level, bucket, count(*) AS copies, max(trades) AS trades, bool_and(credible.bucket IS NOT NULL) AS credible,
           (array_agg(to_jsonb(stored)))[1] AS candle
    FROM stored LEFT JOIN credible USING (level, bucket, trades) GROUP BY level, bucket
)
SELECT level, bucket,
       CASE WHEN found.trades IS NULL THEN 'missing' WHEN reckoned.trades IS NULL THEN 'surplus'
            WHEN found.copies > 1 THEN 'twice' ELSE 'different' END AS kind,
       ARRAY(SELECT key FROM jsonb_each(to_jsonb(reckoned)) AS one JOIN jsonb_each(found.candle) AS other USING (key)
             WHERE one.value <> other.value ORDER BY key) AS columns,
       NOT (coalesce(found.credible, false) AND found.trades > coalesce(reckoned.trades, 0))
           AND reckoned.trades IS NOT NULL AS rebuildable,
       EXISTS (SELECT FROM market.stale_ranges AS range
               WHERE range.instrument_id = %(instrument_id)s AND range.to_time >= bucket AND range.from_time < bucket +
                     CASE level WHEN '1m' THEN interval '1 minute' WHEN '1h' THEN '1 hour' ELSE '1 day' END) AS waits,
       open, high, low, close, volume, quote_volume, reckoned.trades AS trades, taker_buy_volume,
       taker_buy_quote_volume, first_id, last_id
FROM odd LEFT JOIN reckoned USING (level, bucket) LEFT JOIN found USING (level, bucket)
WHERE level <> '1m' OR %(ticks_kept)s;

-- name: wrong_candles
-- The candles of a day that are wrong. At most 1,465 rows, by level and bucket.
SELECT level, bucket, kind, columns, rebuildable, waits FROM ({differences}) AS difference
ORDER BY array_position(ARRAY['1m', '1h', '1d'], level), bucket;

-- name: stop_roll_up
-- Keeps the rollup trigger's upserts out until the end of the transaction, and waits for those that are under way.
LOCK TABLE market.candles_1m, market.candles_1h, market.candles_1d IN SHARE ROW EXCLUSIVE MODE;

-- name: rebuild_candles
-- On rollup engines: puts right what differs on a day and can be rebuilt, on each level. One row: how many.
WITH difference AS MATERIALIZED (
    SELECT level, bucket, open, high, low, close, volume, quote_volume, trades, taker_buy_volume,
           taker_buy_quote_volume, first_id, last_id
    FROM ({differences}) AS each WHERE rebuildable
), minutes AS (
    INSERT INTO market.candles_1m
    SELECT %(instrument_id)s, bucket, open, high, low, close, volume, quote_volume, trades, taker_buy_volume,
           taker_buy_quote_volume, first_id, last_id
    FROM difference WHERE level = '1m'
    ON CONFLICT (instrument_id, bucket) DO UPDATE SET
        open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
        volume = excluded.volume, quote_volume = excluded.quote_volume, trades = excluded.trades,
        taker_buy_volume = excluded.taker_buy_volume, taker_buy_quote_volume = excluded.taker_buy_quote_volume,
        first_id = excluded.first_id, last_id = excluded.last_id
), hours AS (
    INSERT INTO market.candles_1h
    SELECT %(instrument_id)s, bucket, open, high, low, close, volume, quote_volume, trades, taker_buy_volume,
           taker_buy_quote_volume, first_id, last_id
    FROM difference WHERE level = '1h'
    ON CONFLICT (instrument_id, bucket) DO UPDATE SET
        open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
        volume = excluded.volume, quote_volume = excluded.quote_volume, trades = excluded.trades,
        taker_buy_volume = excluded.taker_buy_volume, taker_buy_quote_volume = excluded.taker_buy_quote_volume,
        first_id = excluded.first_id, last_id = excluded.last_id
), days AS (
    INSERT INTO market.candles_1d
    SELECT %(instrument_id)s, bucket, open, high, low, close, volume, quote_volume, trades, taker_buy_volume,
           taker_buy_quote_volume, first_id, last_id
    FROM difference WHERE level = '1d'
    ON CONFLICT (instrument_id, bucket) DO UPDATE SET
        open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
        volume = excluded.volume, quote_volume = excluded.quote_volume, trades = excluded.trades,
        taker_buy_volume = excluded.taker_buy_volume, taker_buy_quote_volume = excluded.taker_buy_quote_volume,
        first_id = excluded.first_id, last_id = excluded.last_id
)
SELECT count(*) AS rebuilt, min(bucket) AS first, max(bucket) AS last FROM difference;

-- name: mark_stale
-- Has a range refreshed, and the listeners told.
INSERT INTO market.stale_ranges (instrument_id, from_time, to_time) VALUES (%(instrument_id)s, %(start)s, %(end)s);

-- name: refresh_would_lose
-- Whether a minute of a range, of any instrument, knows trades whose ticks are gone: a refresh of TimescaleDB counts
-- anew for all of them. Reads the range's ticks. One row.
SELECT EXISTS (
    SELECT FROM market.candles_1m AS candle JOIN market.instruments AS instrument ON instrument.id = instrument_id
    WHERE bucket >= %(start)s AND bucket < %(end)s
      AND NOT (contiguous_ids AND trades - 1 > last_id - first_id)
      AND trades > (SELECT count(*) FROM market.ticks AS tick
                    WHERE tick.instrument_id = candle.instrument_id
                      AND tick.time >= %(start)s AND tick.time < %(end)s
                      AND tick.time >= bucket AND tick.time < bucket + interval '1 minute')) AS loses;

-- name: days_with_ticks
-- From when on whole UTC days of ticks are kept, and the days of a range that have ticks of any instrument. One row;
-- reads one tick a day.
SELECT (SELECT date_trunc('day', now() - drop_ticks_after + interval '1 day', 'UTC') FROM ops.storage) AS kept_since,
       ARRAY(SELECT day FROM generate_series(%(start)s::timestamptz, %(end)s, interval '1 day') AS day
             WHERE EXISTS (SELECT FROM market.ticks WHERE time >= day AND time < day + interval '1 day')) AS days;

-- name: gaps_in_range
-- The gaps of some instruments that touch a range and are not filled: for each instrument and state how many, of how
-- many ids, since when, and the first.
SELECT instrument_id, state, count(*) AS count, sum(to_id::numeric - from_id + 1) AS ids, min(opened_at) AS since,
       min(from_id) AS from_id, (array_agg(to_id ORDER BY from_id))[1] AS to_id,
       (array_agg(DISTINCT reason) FILTER (WHERE reason IS NOT NULL))[1:3] AS reasons
FROM market.gaps
WHERE state <> 'filled' AND instrument_id = ANY(%(instrument_ids)s::int[])
  AND from_time < %(end)s AND to_time >= %(start)s
GROUP BY instrument_id, state ORDER BY instrument_id, state;

-- name: waiting_ranges
-- Stale ranges, and how long the oldest of them waits. One row.
SELECT count(*) AS count, extract(epoch FROM now() - min(marked_at))::float8 AS seconds FROM market.stale_ranges;

-- name: storage
-- How ticks are kept. One row.
SELECT chunk_interval, live_window, compress_after, drop_ticks_after FROM ops.storage;

-- name: policies
-- Each policy that market.apply_storage() sets, beside the job that is there, and the jobs that should not be. A row
-- each: `setting` names an offset or a schedule, `wanted` and `actual` are null where there is none.
WITH wanted (job, relation, setting, value) AS (
    SELECT job, relation, setting, value FROM ops.storage AS storage
    CROSS JOIN LATERAL (VALUES
        ('policy_refresh_continuous_aggregate', 'candles_1m', 'start_offset',
         storage.drop_ticks_after - 2 * storage.chunk_interval),
        ('policy_refresh_continuous_aggregate', 'candles_1m', 'end_offset', 2 * storage.live_window),
        ('policy_refresh_continuous_aggregate', 'candles_1m', 'schedule', interval '1 minute'),
        ('policy_refresh_continuous_aggregate', 'candles_1h', 'start_offset', NULL),
        ('policy_refresh_continuous_aggregate', 'candles_1h', 'end_offset', interval '1 hour'),
        ('policy_refresh_continuous_aggregate', 'candles_1h', 'schedule', interval '30 minutes'),
        ('policy_refresh_continuous_aggregate', 'candles_1d', 'start_offset', NULL),
        ('policy_refresh_continuous_aggregate', 'candles_1d', 'end_offset', interval '1 day'),
        ('policy_refresh_continuous_aggregate', 'candles_1d', 'schedule', interval '6 hours'),
        ('policy_compression', 'ticks', 'compress_after', storage.compress_after),
        ('policy_retention', 'ticks', 'drop_after', storage.drop_ticks_after)
    ) AS policy (job, relation, setting, value)
    WHERE value IS NOT NULL OR job = 'policy_refresh_continuous_aggregate'
), actual AS (
    SELECT proc_name AS job, hypertable_name AS relation, job_id, scheduled, schedule_interval, config
    FROM timescaledb_information.jobs
    WHERE hypertable_schema = 'market'
      AND proc_name IN ('policy_refresh_continuous_aggregate', 'policy_compression', 'policy_retention')
)
SELECT job::text, relation::text, setting, job_id, scheduled, value AS wanted, wanted.job IS NOT NULL AS expected,
       CASE setting WHEN 'schedule' THEN schedule_interval ELSE (config ->> setting)::interval END AS actual
FROM wanted FULL JOIN actual USING (job, relation)
ORDER BY job, relation, setting;

-- name: chunk_interval
-- The length of the chunks to come. One row.
SELECT time_interval AS actual FROM timescaledb_information.dimensions
WHERE hypertable_schema = 'market' AND hypertable_name = 'ticks';

-- name: failed_jobs
-- The jobs whose last run failed, and what it said where this role may see it. A row each.
SELECT job.job_id, job.proc_name::text AS job, job.hypertable_name::text AS relation, error.err_message AS message
FROM timescaledb_information.jobs AS job JOIN timescaledb_information.job_stats AS stats USING (job_id)
LEFT JOIN LATERAL (SELECT err_message FROM timescaledb_information.job_errors
                   WHERE job_errors.job_id = job.job_id ORDER BY finish_time DESC LIMIT 1) AS error ON true
WHERE job.hypertable_schema = 'market' AND stats.last_run_status = 'Failed' ORDER BY job.job_id;

-- name: unmaterialised
-- Levels where candles wait for their policy longer than three of its turns, and since when. At most three rows.
SELECT level, min(bucket) AS since, count(*) AS count
FROM (
    SELECT 'candles_1m' AS level, bucket FROM market.candles_1m, ops.storage
    WHERE bucket >= %(minutes)s AND bucket < now() - 2 * live_window - interval '4 minutes'
    UNION ALL
    SELECT 'candles_1h', bucket FROM market.candles_1h
    WHERE bucket >= %(hours)s AND bucket < now() - interval '3 hours 30 minutes'
    UNION ALL
    SELECT 'candles_1d', bucket FROM market.candles_1d
    WHERE bucket >= %(days)s AND bucket < now() - interval '2 days 18 hours'
) AS candle GROUP BY level ORDER BY level;

-- name: watermarks
-- Up to where each level is materialised, finest first. Three rows.
SELECT _timescaledb_functions.to_timestamp(
           greatest(_timescaledb_functions.cagg_watermark(mat_hypertable_id), 0)) AS watermark
FROM _timescaledb_catalog.continuous_agg WHERE user_view_schema = 'market' ORDER BY mat_hypertable_id;

-- name: triggers
-- The triggers that the product needs, and whether they fire. A row each; `state` is null where one is not there.
SELECT wanted.relation, wanted.name, pg_trigger.tgenabled::text AS state
FROM (VALUES ('ticks', 'announce'), ('ticks', 'roll_up'), ('gaps', 'announce'), ('instruments', 'announce'),
             ('instruments', 'note_tracking')) AS wanted (relation, name)
LEFT JOIN pg_trigger ON tgrelid = to_regclass('market.' || wanted.relation) AND tgname = wanted.name
WHERE wanted.name <> 'roll_up' OR %(rolls_up)s;

-- name: enable_trigger
ALTER TABLE {relation} ENABLE TRIGGER {trigger};

-- name: chunks
-- The chunks of ticks: how many, how many compressed, the uncompressed ones that a policy should have compressed a day
-- ago, those that retention should have dropped (`grace` ago), those that begin more than two days ahead. One row.
SELECT count(*) AS count, count(*) FILTER (WHERE is_compressed) AS compressed,
       count(*) FILTER (WHERE NOT is_compressed AND range_end < now() - compress_after - interval '1 day') AS loose,
       count(*) FILTER (WHERE range_end < now() - drop_ticks_after - %(grace)s) AS undropped,
       (array_agg(chunk_schema || '.' || chunk_name || ' of ' || range_start::date ORDER BY range_start)
        FILTER (WHERE range_start > now() + interval '2 days'))[1:%(examples)s] AS ahead
FROM timescaledb_information.chunks, ops.storage
WHERE hypertable_schema = 'market' AND hypertable_name = 'ticks';

-- name: partitions
-- The partitions of ticks by day, attached or not. A row each.
SELECT relname::text AS name, to_date(substr(relname, 7), 'YYYYMMDD') AS day,
       coalesce(inhparent = 'market.ticks'::regclass AND NOT inhdetachpending, false) AS attached,
       to_date(substr(relname, 7), 'YYYYMMDD') < ((now() - drop_ticks_after - %(grace)s) AT TIME ZONE 'UTC')::date
           AS undropped,
       to_date(substr(relname, 7), 'YYYYMMDD') > ((now() + interval '2 days') AT TIME ZONE 'UTC')::date AS ahead,
       (now() AT TIME ZONE 'UTC')::date = to_date(substr(relname, 7), 'YYYYMMDD') AS today
FROM ops.storage, pg_class LEFT JOIN pg_inherits ON inhrelid = pg_class.oid
WHERE relnamespace = 'market'::regnamespace AND relkind = 'r' AND relname ~ '^ticks_[0-9]+$' AND length(relname) = 14 ORDER BY relname;

-- name: drop_old_ticks
SELECT market.drop_old_ticks();

-- name: apply_storage
SELECT market.apply_storage();

-- name: notification_queue
-- How full the queue of notifications is, 0 to 1. One row.
SELECT pg_notification_queue_usage() AS used;

-- name: oldest_transactions
-- The sessions of this server in a transaction, oldest first, with those that this role may not look into. `queue`
-- asks for those of all databases, since notifications share one queue. At most `examples` rows.
SELECT pid, usename::text AS role, application_name AS application, datname::text AS database, state,
       extract(epoch FROM clock_timestamp() - xact_start)::float8 AS seconds, count(*) OVER () AS count,
       query = '<insufficient privilege>' AS hidden
FROM pg_stat_activity
WHERE (backend_type = 'client backend' OR query = '<insufficient privilege>') AND pid <> pg_backend_pid()
  AND (%(queue)s OR datname = current_database())
  AND (xact_start IS NOT NULL OR query = '<insufficient privilege>')
ORDER BY xact_start NULLS LAST LIMIT %(examples)s;

-- name: prepared_transactions
-- Prepared transactions of this database, oldest first. At most `examples` rows.
SELECT gid, owner::text AS role, extract(epoch FROM clock_timestamp() - prepared)::float8 AS seconds
FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared LIMIT %(examples)s;

-- name: standbys
-- Who replicates from this server; nulls where this role may not see it. A row each.
SELECT application_name AS name, state, extract(epoch FROM replay_lag)::float8 AS seconds FROM pg_stat_replication;

-- name: replay
-- How far a standby is behind. One row.
SELECT extract(epoch FROM now() - pg_last_xact_replay_timestamp())::float8 AS seconds;

-- name: slots
-- Replication slots, and how much WAL each holds. A row each.
SELECT slot_name::text AS name, active, wal_status,
       pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END,
                       restart_lsn)::bigint AS held
FROM pg_replication_slots ORDER BY slot_name;

-- name: offer
-- What the server offers: versions, licence, what is preloaded. One row.
SELECT current_setting('server_version_num')::int / 10000 AS postgres, installed_version, default_version,
       current_setting('timescaledb.license', true) AS licence
FROM (SELECT) AS one LEFT JOIN pg_available_extensions ON name = 'timescaledb';

-- name: applied_migrations
-- A row for each migration that was applied.
SELECT number, name, checksum FROM ops.migrations ORDER BY number;

-- name: roles
-- The product's roles that are there, and whether they can log in. At most four rows.
SELECT rolname::text AS name, rolcanlogin AS may_log_in FROM pg_roles
WHERE rolname IN ('tickwick_owner', 'tickwick_writer', 'tickwick_app', 'tickwick_reader');

-- name: clock
-- The server's clock. One row.
SELECT clock_timestamp() AS now;

-- name: become_owner
SET LOCAL ROLE tickwick_owner;
