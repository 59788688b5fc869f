-- Why:  limits on what an address may ask for hold over all processes, so they count in one place. Unlogged: it writes no
--       WAL and waits for no disk; after a crash it is empty, and all begin anew.
-- Lock: none on existing objects.
-- Undo: DROP TABLE ops.usage.

CREATE UNLOGGED TABLE ops.usage (
    limit_name text NOT NULL CHECK (length(limit_name) <= 64),
    subject    text NOT NULL CHECK (length(subject) <= 64),
    window_end timestamptz NOT NULL,
    used       bigint NOT NULL,
    PRIMARY KEY (limit_name, subject)
) WITH (fillfactor = 50); -- each count updates its row: room for heap-only updates
COMMENT ON TABLE ops.usage IS 'What each subject, an address, has used of each limit in the window that ends then.';

GRANT INSERT, UPDATE, DELETE ON ops.usage TO tickwick_app;
REVOKE SELECT ON ops.usage FROM tickwick_writer; -- whose addresses these are is nobody else's business
