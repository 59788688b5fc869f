-- Why:  retention derived from ops.storage where no policy can do it; ingest calls it every hour.
-- Lock: market.drop_old_ticks takes ACCESS EXCLUSIVE on what it drops, and briefly on market.ticks.
-- Undo: DROP FUNCTION market.apply_storage(), market.drop_old_ticks().

CREATE FUNCTION market.drop_old_ticks() RETURNS integer LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    horizon constant timestamptz := now() - (SELECT drop_ticks_after FROM ops.storage);
    partition regclass;
    dropped integer := 0;
BEGIN
    IF horizon IS NULL THEN
        RETURN 0;
    END IF;
    IF EXISTS (SELECT FROM pg_partitioned_table WHERE partrelid = 'market.ticks'::regclass) THEN
        FOR partition IN
            SELECT inhrelid::regclass FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
            WHERE inhparent = 'market.ticks'::regclass
              AND relname < 'ticks_' || to_char(horizon AT TIME ZONE 'UTC', 'YYYYMMDD')
        LOOP
            EXECUTE format('DROP TABLE %s', partition);
            dropped := dropped + 1;
        END LOOP;
    ELSE
        EXECUTE 'SELECT count(*) FROM public.drop_chunks(''market.ticks''::regclass, older_than => $1)'
            INTO dropped USING horizon;
    END IF;
    RETURN dropped;
END
$$;
REVOKE EXECUTE ON FUNCTION market.drop_old_ticks FROM PUBLIC;
GRANT EXECUTE ON FUNCTION market.drop_old_ticks TO tickwick_writer;

CREATE FUNCTION market.apply_storage() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM market.drop_old_ticks();
END
$$;
REVOKE EXECUTE ON FUNCTION market.apply_storage FROM PUBLIC;
