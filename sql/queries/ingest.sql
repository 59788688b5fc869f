-- What ingest and import write. Ticks go in by COPY; see ingest/copy.py.

-- name: copy_ticks
COPY market.ticks (time, instrument_id, trade_id, price, size, buyer_is_maker) FROM STDIN (FORMAT binary);

-- name: make_staging
CREATE TEMPORARY TABLE incoming (
    time timestamptz, instrument_id integer, trade_id bigint, price numeric, size numeric, buyer_is_maker boolean
);

-- name: drop_staging
DROP TABLE incoming;

-- name: copy_staging
COPY incoming (time, instrument_id, trade_id, price, size, buyer_is_maker) FROM STDIN (FORMAT binary);

-- name: merge_staging
-- Inserts what is new, in order of ids; the row count tells how much that was.
INSERT INTO market.ticks (time, instrument_id, trade_id, price, size, buyer_is_maker)
SELECT time, instrument_id, trade_id, price, size, buyer_is_maker FROM incoming ORDER BY instrument_id, trade_id
ON CONFLICT (instrument_id, time, trade_id) DO NOTHING;

-- name: merge_staging_quietly
-- As merge_staging, but leaves out a tick, too, whose trade is stored with another time in the same millisecond:
-- exchanges tell of one trade in milliseconds here and in microseconds there. `start` and `end` are about the times of
-- the batch: they keep the reading, by the unique key, to what lies beside it.
INSERT INTO market.ticks (time, instrument_id, trade_id, price, size, buyer_is_maker)
SELECT time, instrument_id, trade_id, price, size, buyer_is_maker FROM incoming
WHERE NOT EXISTS (
    SELECT FROM market.ticks AS tick
    WHERE tick.instrument_id = incoming.instrument_id AND tick.trade_id = incoming.trade_id
      AND tick.time >= date_trunc('milliseconds', incoming.time)
      AND tick.time < date_trunc('milliseconds', incoming.time) + interval '1 millisecond'
      AND tick.instrument_id = ANY(%(instrument_ids)s::int[]) AND tick.time >= %(start)s AND tick.time < %(end)s)
ORDER BY instrument_id, trade_id
ON CONFLICT (instrument_id, time, trade_id) DO NOTHING;

-- name: make_room
-- Makes sure that ticks of these UTC days can be inserted.
SELECT market.make_room(%(days)s::date[]);

-- name: be_quiet
-- Until the end of the transaction: announce no ticks, and treat all as late.
SET LOCAL tickwick.quiet = 'on';

-- name: kept_since
-- Older ticks are refused by market.announce_ticks; a minute later, so that what passes here passes there too. One row;
-- null where ticks are kept for ever.
SELECT now() - drop_ticks_after + chunk_interval + interval '1 minute' FROM ops.storage;

-- name: last_ids
-- The highest trade id of each instrument given whose ids are contiguous, out of its two newest days of candles, and the
-- time of the last tick of its newest minute, by the unique key; where that tick was dropped, the minute. A row per
-- instrument; null where it has no ticks.
SELECT wanted.id, max(day.last_id), max(coalesce(tick.time, minute.bucket))
FROM market.instruments AS wanted
LEFT JOIN LATERAL (SELECT last_id, bucket FROM market.candles_1d WHERE instrument_id = wanted.id
                   ORDER BY bucket DESC LIMIT 2) AS day ON true
LEFT JOIN LATERAL (SELECT bucket FROM market.candles_1m WHERE instrument_id = wanted.id AND bucket >= day.bucket
                   ORDER BY bucket DESC LIMIT 1) AS minute ON true
LEFT JOIN LATERAL (SELECT time FROM market.ticks WHERE instrument_id = wanted.id AND time >= minute.bucket
                   AND time < minute.bucket + interval '1 minute' ORDER BY time DESC, trade_id DESC LIMIT 1) AS tick
          ON true
WHERE wanted.id = ANY(%(instrument_ids)s) AND wanted.contiguous_ids
GROUP BY wanted.id;

-- name: lock_refresher
-- Takes the right to settle late ticks and gaps, for as long as this session lives. One row.
SELECT pg_try_advisory_lock(hashtext('tickwick.refresher'));

-- name: stale_ranges
-- What late ticks touched and no refresh has covered, oldest first. At most 10,000 rows.
SELECT id, instrument_id, from_time, to_time FROM market.stale_ranges ORDER BY id LIMIT 10000;

-- name: settle_ranges
-- Forgets ranges that have been refreshed, and tells the listeners.
WITH settled AS (DELETE FROM market.stale_ranges WHERE id = ANY(%(ids)s) RETURNING 1)
SELECT pg_notify('corrections', payload) FROM unnest(%(payloads)s::text[]) AS payload
WHERE EXISTS (SELECT FROM settled);

-- name: refresh_bounds
-- For each level of continuous aggregates, finest first: until when a refresh may go, from when on it may, up to where
-- the level is materialised, and whether this version refreshes in batches. Three rows. Minutes are made of ticks that
-- may have been dropped; the others of candles, which are kept.
SELECT now() - 2 * live_window,
       greatest(CASE user_view_name WHEN 'candles_1m' THEN now() - drop_ticks_after END, 'epoch'),
       greatest(_timescaledb_functions.to_timestamp(_timescaledb_functions.cagg_watermark(mat_hypertable_id)), 'epoch'),
       string_to_array(split_part(extversion, '-', 1), '.')::int[] >= '{2,28}'
FROM ops.storage, pg_extension, _timescaledb_catalog.continuous_agg
WHERE extname = 'timescaledb' AND user_view_schema = 'market'
ORDER BY mat_hypertable_id;

-- name: refresh
-- Refreshes one level of continuous aggregates over whole buckets. By force: TimescaleDB (2.28.3 at least) does not log
-- what a COPY invalidates on a table whose statement trigger has a transition table, and would find nothing to do.
CALL refresh_continuous_aggregate({level}, %(start)s::timestamptz, %(end)s::timestamptz, force => true {options});

-- name: drop_old_ticks
SELECT market.drop_old_ticks();

-- name: engine
-- The engine this database was migrated for, and what tells it from every other database. One row.
SELECT engine, (SELECT system_identifier FROM pg_control_system()) || '-' || oid
FROM ops.engine, pg_database WHERE datname = current_database();

-- name: add_instrument
-- Adds an instrument where none has the symbol.
INSERT INTO market.instruments (source, ticker, base, quote, price_scale, feed, contiguous_ids, active)
VALUES (%(source)s, %(ticker)s, %(base)s, %(quote)s, %(price_scale)s, %(feed)s, %(contiguous_ids)s, %(active)s)
ON CONFLICT (symbol) DO NOTHING;

-- name: activate_instruments
-- Has these tracked, but for those whose tracking was switched off while it ran.
UPDATE market.instruments SET active = true WHERE symbol = ANY(%(symbols)s) AND NOT active AND untracked_at IS NULL;

-- name: describe_instrument
-- Notes down how the venue lists an instrument that was added without. One row.
UPDATE market.instruments SET base = %(base)s, quote = %(quote)s, price_scale = %(price_scale)s
WHERE id = %(id)s AND base IS NULL;

-- name: untrack
SELECT market.untrack(%(symbol)s);

-- name: instruments
-- The instruments of some symbols. At most one row each.
SELECT id, symbol, source, ticker, base, quote, kind, price_scale, feed, contiguous_ids, active
FROM market.instruments WHERE symbol = ANY(%(symbols)s) ORDER BY symbol;
