-- Why:  every tick, in native range partitions by UTC day, whatever ops.storage.chunk_interval says. The unique key
--       serves all reads: by instrument and time; by trade_id through the first and last ids that candles carry.
-- Lock: none on existing objects.
-- Undo: DROP TABLE market.ticks; DROP FUNCTION market.make_room(date[]).

CREATE TABLE market.ticks (
    time           timestamptz NOT NULL CHECK (time >= '1970-01-01 00:00Z' AND time < '2262-01-01 00:00Z'),
    instrument_id  integer NOT NULL,
    trade_id       bigint NOT NULL CHECK (trade_id >= 0),
    price          numeric NOT NULL CHECK (price > 0 AND price < 1e20 AND scale(price) <= 18),
    size           numeric NOT NULL CHECK (size >= 0 AND size < 1e20 AND scale(size) <= 18),
    buyer_is_maker boolean,
    received_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT ticks_key UNIQUE (instrument_id, time, trade_id)
) PARTITION BY RANGE (time);
COMMENT ON COLUMN market.ticks.time IS 'The exchange''s time.';
COMMENT ON COLUMN market.ticks.trade_id IS 'Rises within an instrument; the order of ticks.';

GRANT INSERT, DELETE ON market.ticks TO tickwick_writer;

-- Built aside and then attached: ATTACH takes SHARE UPDATE EXCLUSIVE on market.ticks, under which reads and writes go
-- on.
CREATE FUNCTION market.make_room(days date[]) RETURNS void LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = market, pg_catalog, pg_temp AS $$
DECLARE
    day date;
    partition text;
BEGIN
    FOR day IN SELECT DISTINCT wanted FROM unnest(days) AS wanted
               WHERE to_regclass('market.ticks_' || to_char(wanted, 'YYYYMMDD')) IS NULL ORDER BY wanted LOOP
        PERFORM pg_advisory_xact_lock(hashtext('market.make_room'));
        partition := 'ticks_' || to_char(day, 'YYYYMMDD');
        IF to_regclass('market.' || partition) IS NULL THEN
            EXECUTE format('CREATE TABLE market.%I (LIKE market.ticks INCLUDING DEFAULTS INCLUDING CONSTRAINTS)',
                           partition);
            EXECUTE format('ALTER TABLE market.ticks ATTACH PARTITION market.%I FOR VALUES FROM (%L) TO (%L)',
                           partition, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION market.make_room IS
    'Makes sure that ticks of these UTC days can be inserted; needed on the engine postgres alone.';
REVOKE EXECUTE ON FUNCTION market.make_room FROM PUBLIC;
GRANT EXECUTE ON FUNCTION market.make_room TO tickwick_writer;
