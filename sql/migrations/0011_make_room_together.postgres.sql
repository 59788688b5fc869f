-- Why:  two sessions that made room for the same day at once could both set out to create its partition: to_regclass
--       answers from a cache that an advisory lock does not bring up to date; a query does look.
-- Lock: none on existing objects.
-- Undo: the function as in 0004.

CREATE OR REPLACE FUNCTION market.make_room(days date[]) RETURNS void LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = market, pg_catalog, pg_temp AS $$
DECLARE
    day date;
    partition text;
BEGIN
    FOR day IN SELECT DISTINCT wanted FROM unnest(days) AS wanted
               WHERE to_regclass('market.ticks_' || to_char(wanted, 'YYYYMMDD')) IS NULL ORDER BY wanted LOOP
        PERFORM pg_advisory_xact_lock(hashtext('market.make_room'));
        partition := 'ticks_' || to_char(day, 'YYYYMMDD');
        IF NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = 'market'::regnamespace AND relname = partition) THEN
            EXECUTE format('CREATE TABLE market.%I (LIKE market.ticks INCLUDING DEFAULTS INCLUDING CONSTRAINTS)',
                           partition);
            EXECUTE format('ALTER TABLE market.ticks ATTACH PARTITION market.%I FOR VALUES FROM (%L) TO (%L)',
                           partition, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
        END IF;
    END LOOP;
END
$$;
