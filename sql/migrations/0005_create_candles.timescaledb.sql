-- Why:  candles as continuous aggregates, each level on the one below, answered in real time. Open and close go by
--       trade id: of ticks that share a time, `first(price, time)` would pick any.
-- Lock: SHARE ROW EXCLUSIVE on market.ticks, which is new.
-- As:   writer (only its owner may refresh a continuous aggregate, and the writer refreshes what late ticks touch)
-- Undo: DROP MATERIALIZED VIEW market.candles_1d, market.candles_1h, market.candles_1m.

CREATE MATERIALIZED VIEW market.candles_1m
WITH (timescaledb.continuous, timescaledb.materialized_only = false, timescaledb.create_group_indexes = false) AS
SELECT instrument_id,
       time_bucket('1 minute', time) AS bucket,
       first(price, trade_id) AS open,
       max(price) AS high,
       min(price) AS low,
       last(price, trade_id) AS close,
       sum(size) AS volume,
       sum(price * size) AS quote_volume,
       count(*) AS trades,
       coalesce(sum(size) FILTER (WHERE NOT buyer_is_maker), 0) AS taker_buy_volume,
       coalesce(sum(price * size) FILTER (WHERE NOT buyer_is_maker), 0) AS taker_buy_quote_volume,
       min(trade_id) AS first_id,
       max(trade_id) AS last_id
FROM market.ticks
GROUP BY instrument_id, time_bucket('1 minute', time)
WITH NO DATA;

CREATE MATERIALIZED VIEW market.candles_1h
WITH (timescaledb.continuous, timescaledb.materialized_only = false, timescaledb.create_group_indexes = false) AS
SELECT instrument_id,
       time_bucket('1 hour', bucket) AS bucket,
       first(open, first_id) AS open,
       max(high) AS high,
       min(low) AS low,
       last(close, last_id) AS close,
       sum(volume) AS volume,
       sum(quote_volume) AS quote_volume,
       sum(trades)::bigint AS trades,
       sum(taker_buy_volume) AS taker_buy_volume,
       sum(taker_buy_quote_volume) AS taker_buy_quote_volume,
       min(first_id) AS first_id,
       max(last_id) AS last_id
FROM market.candles_1m
GROUP BY instrument_id, time_bucket('1 hour', bucket)
WITH NO DATA;

CREATE MATERIALIZED VIEW market.candles_1d
WITH (timescaledb.continuous, timescaledb.materialized_only = false, timescaledb.create_group_indexes = false) AS
SELECT instrument_id,
       time_bucket('1 day', bucket) AS bucket,
       first(open, first_id) AS open,
       max(high) AS high,
       min(low) AS low,
       last(close, last_id) AS close,
       sum(volume) AS volume,
       sum(quote_volume) AS quote_volume,
       sum(trades)::bigint AS trades,
       sum(taker_buy_volume) AS taker_buy_volume,
       sum(taker_buy_quote_volume) AS taker_buy_quote_volume,
       min(first_id) AS first_id,
       max(last_id) AS last_id
FROM market.candles_1h
GROUP BY instrument_id, time_bucket('1 day', bucket)
WITH NO DATA;

CREATE INDEX ON market.candles_1m (instrument_id, bucket DESC);
CREATE INDEX ON market.candles_1h (instrument_id, bucket DESC);
CREATE INDEX ON market.candles_1d (instrument_id, bucket DESC);

GRANT SELECT ON market.candles_1m, market.candles_1h, market.candles_1d
    TO tickwick_owner, tickwick_app, tickwick_reader;
