-- Why:  the policies, derived from ops.storage: refresh, columnstore, retention.
-- Lock: none that readers or writers meet.
-- Undo: remove the policies of market.ticks and market.candles_*; DROP FUNCTION market.apply_storage().

CREATE FUNCTION market.apply_storage() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    storage ops.storage := (SELECT s FROM ops.storage AS s);
    level record;
BEGIN
    PERFORM set_chunk_time_interval('market.ticks', storage.chunk_interval);

    -- Everything that is not yet refreshed, however old, but no minutes whose ticks may be gone: a refresh over dropped
    -- ticks deletes their candles. Hours and days are made of candles, which stay.
    FOR level IN
        SELECT * FROM (VALUES
            ('market.candles_1m', storage.drop_ticks_after - 2 * storage.chunk_interval,
             2 * storage.live_window, interval '1 minute'),
            ('market.candles_1h', NULL, interval '1 hour', interval '30 minutes'),
            ('market.candles_1d', NULL, interval '1 day', interval '6 hours')
        ) AS levels (name, start_offset, end_offset, every)
    LOOP
        PERFORM remove_continuous_aggregate_policy(level.name::regclass, if_exists => true);
        PERFORM add_continuous_aggregate_policy(level.name::regclass, start_offset => level.start_offset,
            end_offset => level.end_offset, schedule_interval => level.every,
            buckets_per_batch => 0); -- before 2.29.0, batches miss a late tick exactly on a bucket's start
    END LOOP;

    CALL remove_columnstore_policy('market.ticks', if_exists => true);
    IF storage.compress_after IS NOT NULL THEN
        CALL add_columnstore_policy('market.ticks', after => storage.compress_after);
    END IF;

    PERFORM remove_retention_policy('market.ticks', if_exists => true);
    IF storage.drop_ticks_after IS NOT NULL THEN
        PERFORM add_retention_policy('market.ticks', drop_after => storage.drop_ticks_after);
    END IF;
END
$$;
REVOKE EXECUTE ON FUNCTION market.apply_storage FROM PUBLIC;

ALTER TABLE market.ticks SET (
    timescaledb.enable_columnstore, timescaledb.segmentby = 'instrument_id', timescaledb.orderby = 'time, trade_id');

SELECT market.apply_storage();
