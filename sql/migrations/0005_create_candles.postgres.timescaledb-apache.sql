-- Why:  candles as tables kept by a statement trigger on market.ticks, where continuous aggregates are not to be had.
--       Each statement's ticks are folded once into minutes, the minutes into hours, those into days, and each is
--       merged into what stands: exact in any order, since open and close go by trade id and all else commutes.
-- Lock: SHARE ROW EXCLUSIVE on market.ticks, which is new.
-- Undo: DROP TRIGGER roll_up ON market.ticks; DROP FUNCTION market.roll_up_ticks();
--       DROP TABLE market.candles_1m, market.candles_1h, market.candles_1d.

CREATE TABLE market.candles_1m (
    instrument_id          integer NOT NULL,
    bucket                 timestamptz NOT NULL,
    open                   numeric NOT NULL,
    high                   numeric NOT NULL,
    low                    numeric NOT NULL,
    close                  numeric NOT NULL,
    volume                 numeric NOT NULL,
    quote_volume           numeric NOT NULL,
    trades                 bigint NOT NULL,
    taker_buy_volume       numeric NOT NULL,
    taker_buy_quote_volume numeric NOT NULL,
    first_id               bigint NOT NULL,
    last_id                bigint NOT NULL,
    PRIMARY KEY (instrument_id, bucket)
) WITH (fillfactor = 80); -- the open candle is updated with each batch: room for heap-only updates
CREATE TABLE market.candles_1h (LIKE market.candles_1m INCLUDING ALL) WITH (fillfactor = 80);
CREATE TABLE market.candles_1d (LIKE market.candles_1m INCLUDING ALL) WITH (fillfactor = 80);
GRANT INSERT, UPDATE ON market.candles_1m, market.candles_1h, market.candles_1d TO tickwick_writer;

CREATE FUNCTION market.roll_up_ticks() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    WITH minute_lists AS (
        SELECT instrument_id, date_trunc('minute', time, 'UTC') AS bucket, array_agg(price ORDER BY trade_id) AS prices,
               max(price) AS high, min(price) AS low, sum(size) AS volume, sum(price * size) AS quote_volume,
               count(*) AS trades,
               coalesce(sum(size) FILTER (WHERE NOT buyer_is_maker), 0) AS taker_buy_volume,
               coalesce(sum(price * size) FILTER (WHERE NOT buyer_is_maker), 0) AS taker_buy_quote_volume,
               min(trade_id) AS first_id, max(trade_id) AS last_id
        FROM new_ticks GROUP BY instrument_id, date_trunc('minute', time, 'UTC')
    ), minutes AS MATERIALIZED (
        SELECT instrument_id, bucket, prices[1] AS open, high, low, prices[trades] AS close, volume, quote_volume,
               trades, taker_buy_volume, taker_buy_quote_volume, first_id, last_id
        FROM minute_lists
    ), hours AS MATERIALIZED (
        SELECT instrument_id, date_trunc('hour', bucket, 'UTC') AS bucket,
               (array_agg(open ORDER BY first_id))[1] AS open,
               max(high) AS high, min(low) AS low, (array_agg(close ORDER BY last_id DESC))[1] AS close,
               sum(volume) AS volume, sum(quote_volume) AS quote_volume, sum(trades)::bigint AS trades,
               sum(taker_buy_volume) AS taker_buy_volume, sum(taker_buy_quote_volume) AS taker_buy_quote_volume,
               min(first_id) AS first_id, max(last_id) AS last_id
        FROM minutes GROUP BY 1, 2
    ), days AS MATERIALIZED (
        SELECT instrument_id, date_trunc('day', bucket, 'UTC') AS bucket,
               (array_agg(open ORDER BY first_id))[1] AS open,
               max(high) AS high, min(low) AS low, (array_agg(close ORDER BY last_id DESC))[1] AS close,
               sum(volume) AS volume, sum(quote_volume) AS quote_volume, sum(trades)::bigint AS trades,
               sum(taker_buy_volume) AS taker_buy_volume, sum(taker_buy_quote_volume) AS taker_buy_quote_volume,
               min(first_id) AS first_id, max(last_id) AS last_id
        FROM hours GROUP BY 1, 2
    ), merged_minutes AS (
        INSERT INTO market.candles_1m AS kept SELECT * FROM minutes ORDER BY instrument_id, bucket
        ON CONFLICT (instrument_id, bucket) DO UPDATE SET
            open = CASE WHEN excluded.first_id < kept.first_id THEN excluded.open ELSE kept.open END,
            high = greatest(kept.high, excluded.high),
            low = least(kept.low, excluded.low),
            close = CASE WHEN excluded.last_id > kept.last_id THEN excluded.close ELSE kept.close END,
            volume = kept.volume + excluded.volume,
            quote_volume = kept.quote_volume + excluded.quote_volume,
            trades = kept.trades + excluded.trades,
            taker_buy_volume = kept.taker_buy_volume + excluded.taker_buy_volume,
            taker_buy_quote_volume = kept.taker_buy_quote_volume + excluded.taker_buy_quote_volume,
            first_id = least(kept.first_id, excluded.first_id),
            last_id = greatest(kept.last_id, excluded.last_id)
    ), merged_hours AS (
        INSERT INTO market.candles_1h AS kept SELECT * FROM hours ORDER BY instrument_id, bucket
        ON CONFLICT (instrument_id, bucket) DO UPDATE SET
            open = CASE WHEN excluded.first_id < kept.first_id THEN excluded.open ELSE kept.open END,
            high = greatest(kept.high, excluded.high),
            low = least(kept.low, excluded.low),
            close = CASE WHEN excluded.last_id > kept.last_id THEN excluded.close ELSE kept.close END,
            volume = kept.volume + excluded.volume,
            quote_volume = kept.quote_volume + excluded.quote_volume,
            trades = kept.trades + excluded.trades,
            taker_buy_volume = kept.taker_buy_volume + excluded.taker_buy_volume,
            taker_buy_quote_volume = kept.taker_buy_quote_volume + excluded.taker_buy_quote_volume,
            first_id = least(kept.first_id, excluded.first_id),
            last_id = greatest(kept.last_id, excluded.last_id)
    )
    INSERT INTO market.candles_1d AS kept SELECT * FROM days ORDER BY instrument_id, bucket
    ON CONFLICT (instrument_id, bucket) DO UPDATE SET
        open = CASE WHEN excluded.first_id < kept.first_id THEN excluded.open ELSE kept.open END,
        high = greatest(kept.high, excluded.high),
        low = least(kept.low, excluded.low),
        close = CASE WHEN excluded.last_id > kept.last_id THEN excluded.close ELSE kept.close END,
        volume = kept.volume + excluded.volume,
        quote_volume = kept.quote_volume + excluded.quote_volume,
        trades = kept.trades + excluded.trades,
        taker_buy_volume = kept.taker_buy_volume + excluded.taker_buy_volume,
        taker_buy_quote_volume = kept.taker_buy_quote_volume + excluded.taker_buy_quote_volume,
        first_id = least(kept.first_id, excluded.first_id),
        last_id = greatest(kept.last_id, excluded.last_id);
    RETURN NULL;
END
$$;

CREATE TRIGGER roll_up AFTER INSERT ON market.ticks
    REFERENCING NEW TABLE AS new_ticks FOR EACH STATEMENT EXECUTE FUNCTION market.roll_up_ticks();
