-- Why:  each insert into market.ticks tells the listeners, with the ticks themselves, in the order of commits; and
--       marks the candle ranges that late ticks touch. `SET LOCAL tickwick.quiet = 'on'` (imports, backfills) sends no
--       ticks and treats all as late. Ticks about as old as those that retention drops are refused.
-- Lock: SHARE ROW EXCLUSIVE on market.ticks, which is new.
-- Undo: DROP TRIGGER announce ON market.ticks; DROP FUNCTION market.announce_ticks(); DROP TABLE market.stale_ranges.

CREATE TABLE market.stale_ranges (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    instrument_id integer NOT NULL,
    from_time     timestamptz NOT NULL,
    to_time       timestamptz NOT NULL,
    marked_at     timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE market.stale_ranges IS
    'Late ticks between these times, both inclusive, changed past candles; waits for the refresher.';
GRANT INSERT, DELETE ON market.stale_ranges TO tickwick_writer;

CREATE FUNCTION market.announce_ticks() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    quiet constant boolean := coalesce(current_setting('tickwick.quiet', true), '') = 'on';
    storage constant ops.storage := (SELECT s FROM ops.storage AS s);
    live_since constant timestamptz := clock_timestamp() - storage.live_window;
    kept_since constant timestamptz := now() - storage.drop_ticks_after + storage.chunk_interval;
BEGIN
    IF kept_since IS NOT NULL AND EXISTS (SELECT FROM new_ticks WHERE time < kept_since) THEN
        RAISE check_violation USING MESSAGE = format('ticks from before %s are no longer kept', kept_since);
    END IF;

    INSERT INTO market.stale_ranges (instrument_id, from_time, to_time)
    SELECT instrument_id, min(time), max(time) FROM new_ticks
    WHERE quiet OR time < live_since
    GROUP BY instrument_id, date_trunc('hour', time, 'UTC');

    IF quiet THEN
        RETURN NULL;
    END IF;

    -- A payload of 8,000 bytes is an error. A page closes with the item that passes 7,600; an item is at most 160
    -- bytes. Pages take their items in the order of the window. MATERIALIZED: each item's text is built once.
    PERFORM pg_notify('ticks', payload) FROM (
        WITH items AS MATERIALIZED (
            SELECT instrument_id, trade_id,
                   '[' || instrument_id || ',' || trade_id || ',' || (extract(epoch FROM time) * 1000000)::bigint
                   || ',"' || price || '","' || size || '",' || coalesce(buyer_is_maker::text, 'null') || ']' AS item
            FROM new_ticks
        ), pages AS (
            SELECT item,
                   sum(length(item) + 1) OVER (ORDER BY instrument_id, trade_id ROWS UNBOUNDED PRECEDING) / 7600 AS page
            FROM items
        )
        SELECT '[' || string_agg(item, ',') || ']' AS payload FROM pages GROUP BY page ORDER BY page
    ) AS payloads;
    RETURN NULL;
END
$$;

CREATE TRIGGER announce AFTER INSERT ON market.ticks
    REFERENCING NEW TABLE AS new_ticks FOR EACH STATEMENT EXECUTE FUNCTION market.announce_ticks();
