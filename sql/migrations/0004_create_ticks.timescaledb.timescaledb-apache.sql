-- Why:  every tick, in a hypertable. The unique key serves all reads: by instrument and time; by trade_id through the
--       first and last ids that candles carry.
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
);
COMMENT ON COLUMN market.ticks.time IS 'The exchange''s time.';
COMMENT ON COLUMN market.ticks.trade_id IS 'Rises within an instrument; the order of ticks.';

SELECT create_hypertable('market.ticks', by_range('time', (SELECT chunk_interval FROM ops.storage)),
                         create_default_indexes => false);

GRANT INSERT, DELETE ON market.ticks TO tickwick_writer;

CREATE FUNCTION market.make_room(days date[]) RETURNS void LANGUAGE sql
BEGIN ATOMIC
    SELECT; -- chunks are made by themselves
END;
COMMENT ON FUNCTION market.make_room IS
    'Makes sure that ticks of these UTC days can be inserted; needed on the engine postgres alone.';
