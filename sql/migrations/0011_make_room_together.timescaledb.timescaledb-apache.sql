-- Why:  numbers are alike on each engine; on this one there is nothing to do, since TimescaleDB makes its chunks itself.
-- Lock: none.
-- Undo: nothing.

SELECT;
