-- Why:  candles for people and for Grafana's candlestick panel, which maps columns named time, open, high, low, close,
--       volume; and ticks with their symbol.
-- Lock: none on existing objects.
-- Undo: DROP VIEW market.candles, market.trades.

CREATE VIEW market.candles AS
SELECT candle.bucket AS time, instrument.symbol, candle.interval, candle.open, candle.high, candle.low, candle.close,
       candle.volume, candle.quote_volume, candle.trades, candle.taker_buy_volume, candle.taker_buy_quote_volume,
       candle.first_id, candle.last_id
FROM market.instruments AS instrument
JOIN (
    SELECT '1m' AS interval, instrument_id, bucket, open, high, low, close, volume, quote_volume, trades,
           taker_buy_volume, taker_buy_quote_volume, first_id, last_id FROM market.candles_1m
    UNION ALL
    SELECT '1h', instrument_id, bucket, open, high, low, close, volume, quote_volume, trades, taker_buy_volume,
           taker_buy_quote_volume, first_id, last_id FROM market.candles_1h
    UNION ALL
    SELECT '1d', instrument_id, bucket, open, high, low, close, volume, quote_volume, trades, taker_buy_volume,
           taker_buy_quote_volume, first_id, last_id FROM market.candles_1d
) AS candle ON candle.instrument_id = instrument.id;
COMMENT ON VIEW market.candles IS
    'Candles by symbol and interval (1m, 1h, 1d); columns as Grafana''s candlestick panel expects.';

CREATE VIEW market.trades AS
SELECT tick.time, instrument.symbol, tick.trade_id, tick.price, tick.size,
       CASE tick.buyer_is_maker WHEN true THEN 'sell' WHEN false THEN 'buy' END AS side, tick.received_at
FROM market.ticks AS tick JOIN market.instruments AS instrument ON instrument.id = tick.instrument_id;
COMMENT ON VIEW market.trades IS 'Ticks by symbol; side is the taker''s.';
