-- Who of the ingesters owns which instrument; see ingest/ownership.py. Keys of advisory locks are two integers: what the
-- lock is about, and which one of these.

-- name: guard_session
-- Ends this session, and its locks with it, once it has been silent for so many seconds: its process is stalled, or the
-- network is gone.
SELECT set_config('idle_session_timeout', %(limit)s, false),
       set_config('idle_in_transaction_session_timeout', %(limit)s, false),
       set_config('tcp_keepalives_idle', '1', false), set_config('tcp_keepalives_interval', '1', false),
       set_config('tcp_keepalives_count', '2', false), set_config('tcp_user_timeout', '3000', false);

-- name: end_stalled
-- Ends the sessions of members that stopped in the middle of a COPY, where no timeout of the server's own applies. A row
-- each.
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid = ANY(%(pids)s) AND pid <> pg_backend_pid() AND state = 'active' AND wait_event = 'ClientRead'
  AND state_change < now() - interval '3 seconds';

-- name: join_ingesters
-- Every ingester of a source and feed shares this lock; who holds it is a member.
SELECT pg_advisory_lock_shared(hashtext('tickwick.ingesters'), hashtext(%(source)s || ' ' || %(feed)s));

-- name: ingesters
-- The sessions of the members, in an order that all agree on. A row each.
SELECT pid FROM pg_locks
WHERE locktype = 'advisory' AND classid = hashtext('tickwick.ingesters')::oid AND objsubid = 2
  AND objid = hashtext(%(source)s || ' ' || %(feed)s)::oid AND granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
ORDER BY pid;

-- name: tracked_instruments
-- What is to be tracked of a source and feed. At most one row an instrument.
SELECT id, symbol, source, ticker, base, quote, kind, price_scale, feed, contiguous_ids, active
FROM market.instruments WHERE source = %(source)s AND feed = %(feed)s AND active;

-- name: locked_instruments
-- The instruments that have an owner. A row each.
SELECT objid::bigint FROM pg_locks
WHERE locktype = 'advisory' AND classid = hashtext('tickwick.instrument')::oid AND objsubid = 2 AND granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database());

-- name: lock_instruments
-- Takes those that nobody was faster with, for as long as this session lives. A row for each that is ours now.
SELECT id FROM unnest(%(ids)s::int[]) AS id WHERE pg_try_advisory_lock(hashtext('tickwick.instrument'), id);

-- name: unlock_instruments
SELECT pg_advisory_unlock(hashtext('tickwick.instrument'), id) FROM unnest(%(ids)s::int[]) AS id;
