-- Why:  what can be traded or quoted, and the ranges of trade ids that are known to be missing.
-- Lock: none on existing objects.
-- Undo: DROP TABLE market.gaps, market.instruments; DROP FUNCTION market.announce_instrument().

CREATE TABLE market.instruments (
    id             integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    symbol         text NOT NULL UNIQUE GENERATED ALWAYS AS (source || ':' || ticker) STORED,
    source         text NOT NULL CHECK (source ~ '^[A-Z][A-Z0-9_]{0,15}$'),
    ticker         text NOT NULL CHECK (ticker ~ '^[A-Z0-9][A-Z0-9._/-]{0,39}$'),
    base           text,
    quote          text,
    kind           text NOT NULL DEFAULT 'spot' CHECK (kind IN ('spot', 'fx', 'good')),
    price_scale    smallint NOT NULL DEFAULT 2 CHECK (price_scale BETWEEN 0 AND 18),
    feed           text NOT NULL CHECK (feed IN ('trade', 'aggTrade', 'kline_1s', 'miniTicker', 'quote')),
    contiguous_ids boolean NOT NULL,
    active         boolean NOT NULL DEFAULT true
);
CREATE INDEX instruments_ticker ON market.instruments (ticker);
COMMENT ON COLUMN market.instruments.feed IS
    'What trade_id counts: trades, aggregate trades, or event times in microseconds.';
COMMENT ON COLUMN market.instruments.contiguous_ids IS 'A jump of trade_id is a missed tick.';
COMMENT ON COLUMN market.instruments.price_scale IS 'Decimal places to show; stored prices keep their own.';

CREATE FUNCTION market.announce_instrument() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('instruments', '');
    RETURN NULL;
END
$$;

CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON market.instruments
    FOR EACH STATEMENT EXECUTE FUNCTION market.announce_instrument();

CREATE TABLE market.gaps (
    instrument_id integer NOT NULL REFERENCES market.instruments,
    from_id       bigint NOT NULL,
    to_id         bigint NOT NULL,
    from_time     timestamptz NOT NULL,
    to_time       timestamptz NOT NULL,
    state         text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'filled', 'unfillable')),
    opened_at     timestamptz NOT NULL DEFAULT now(),
    closed_at     timestamptz,
    PRIMARY KEY (instrument_id, from_id, to_id),
    CHECK (from_id <= to_id),
    CHECK ((state = 'open') = (closed_at IS NULL))
);
COMMENT ON TABLE market.gaps IS
    'Trade ids from_id..to_id, both inclusive, were missed; from_time and to_time are those of the ticks around them.';

GRANT INSERT, UPDATE ON market.instruments TO tickwick_writer;
GRANT INSERT, UPDATE, DELETE ON market.gaps TO tickwick_writer;
