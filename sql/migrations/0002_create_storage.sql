-- Why:  the one place that says how long things stay; every chunk interval, policy and offset derives from this row.
--       Change it with UPDATE, then `SELECT market.apply_storage()`.
-- Lock: none on existing objects.
-- Undo: DROP TABLE ops.storage.

CREATE TABLE ops.storage (
    only_row         boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    chunk_interval   interval NOT NULL DEFAULT '1 day',
    -- A tick older than this on arrival is late: its range of candles is marked for refresh. No candle younger than
    -- twice this is materialised, so a timely tick never meets a materialised bucket, even if its commit takes long.
    live_window      interval NOT NULL DEFAULT '1 minute' CHECK (live_window >= '1 minute'),
    -- Later than the longest lateness to expect, since an insert into a compressed chunk decompresses.
    compress_after   interval DEFAULT '7 days' CHECK (compress_after > '2 days'),
    -- NULL keeps ticks for ever. Candles are never dropped. What arrives within a chunk of this age is refused: its
    -- duplicates may be gone, and so may its neighbours in a candle.
    drop_ticks_after interval CHECK (drop_ticks_after >= '4 days'),
    CHECK (drop_ticks_after > compress_after + chunk_interval),
    CHECK (drop_ticks_after >= 4 * chunk_interval)
);
COMMENT ON TABLE ops.storage IS 'How ticks are kept; one row, from which all policies derive.';

INSERT INTO ops.storage DEFAULT VALUES;
