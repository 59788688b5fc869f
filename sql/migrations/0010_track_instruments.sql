-- Why:  tracking is switched on and off while everything runs: `SELECT market.track('BINANCE:ADAUSDT')`, or an UPDATE of
--       `active`; the ingesters of the source follow within a second. What was switched off stays off when an ingester
--       that names it starts again.
-- Lock: ACCESS EXCLUSIVE on market.instruments, for a moment.
-- Undo: DROP FUNCTION market.track(text, text), market.untrack(text);
--       DROP TRIGGER note_tracking ON market.instruments; DROP FUNCTION market.note_tracking();
--       ALTER TABLE market.instruments DROP untracked_at.

ALTER TABLE market.instruments ADD untracked_at timestamptz CHECK (untracked_at IS NULL OR NOT active);
COMMENT ON COLUMN market.instruments.active IS 'Tracked: an ingester of the source takes its ticks.';
COMMENT ON COLUMN market.instruments.untracked_at IS 'When tracking was switched off; null where it never was, or is on.';

CREATE FUNCTION market.note_tracking() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.untracked_at := CASE WHEN NOT NEW.active THEN now() END;
    RETURN NEW;
END
$$;

CREATE TRIGGER note_tracking BEFORE UPDATE OF active ON market.instruments
    FOR EACH ROW WHEN (NEW.active <> OLD.active) EXECUTE FUNCTION market.note_tracking();

CREATE FUNCTION market.track(wanted text, feed text DEFAULT NULL) RETURNS SETOF market.instruments LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    its_source constant text := split_part(wanted, ':', 1);
    its_feed constant text := coalesce(
        feed, (SELECT i.feed FROM market.instruments AS i WHERE i.source = its_source ORDER BY active DESC, id LIMIT 1));
BEGIN
    IF NOT EXISTS (SELECT FROM market.instruments AS i WHERE i.symbol = wanted) THEN
        IF its_feed IS NULL THEN
            RAISE invalid_parameter_value USING MESSAGE = format('no instrument of the source %L is known', its_source);
        END IF;
        INSERT INTO market.instruments (source, ticker, feed, contiguous_ids)
        VALUES (its_source, substr(wanted, length(its_source) + 2), its_feed, its_feed IN ('trade', 'aggTrade'))
        ON CONFLICT (symbol) DO NOTHING;
    END IF;
    UPDATE market.instruments AS i SET active = true WHERE i.symbol = wanted AND NOT active;
    RETURN QUERY SELECT * FROM market.instruments AS i WHERE i.symbol = wanted;
END
$$;
COMMENT ON FUNCTION market.track IS
    'Has an instrument tracked from now on, adding it where it is new: with the feed given, or that of its source.';

CREATE FUNCTION market.untrack(wanted text) RETURNS SETOF market.instruments LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE market.instruments AS i SET active = false WHERE i.symbol = wanted AND active;
    RETURN QUERY SELECT * FROM market.instruments AS i WHERE i.symbol = wanted;
END
$$;
COMMENT ON FUNCTION market.untrack IS 'Ends the tracking of an instrument; no row where it is unknown.';

REVOKE EXECUTE ON FUNCTION market.track, market.untrack FROM PUBLIC;
GRANT EXECUTE ON FUNCTION market.track, market.untrack TO tickwick_writer, tickwick_app;
