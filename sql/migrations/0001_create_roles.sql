-- Why:  four roles, so that each process holds only the rights it needs. They can log in, but have no password until
--       the operator sets one (`tickwick migrate` does it from TICKWICK_{OWNER,WRITER,APP,READER}_PASSWORD).
--       owner: owns everything. writer: ingest and import. app: serve. reader: analysts and Grafana, `market` alone.
-- Lock: none on existing objects.
-- Undo: DROP OWNED BY and DROP ROLE for each of the four, schema `market` with them.
-- As:   operator

DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['tickwick_owner', 'tickwick_writer', 'tickwick_app', 'tickwick_reader'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I LOGIN', wanted);
                IF wanted = 'tickwick_reader' THEN
                    ALTER ROLE tickwick_reader SET statement_timeout = '30s';
                END IF;
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- another database of this server is being migrated at the same time
            END;
        END IF;
    END LOOP;
    -- The owner manages the policies of the continuous aggregates, which are the writer's; the operator acts as both.
    IF NOT pg_has_role('tickwick_owner', 'tickwick_writer', 'MEMBER') THEN
        GRANT tickwick_writer TO tickwick_owner;
    END IF;
    -- Not asked whether it is a member: from PostgreSQL 16 on, who creates a role is one, but may not act as it.
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        EXECUTE format('GRANT tickwick_owner TO %I', current_user);
    END IF;
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO tickwick_owner, tickwick_writer, tickwick_app, tickwick_reader',
                   current_database());
END
$$;

CREATE SCHEMA market AUTHORIZATION tickwick_owner;
GRANT USAGE ON SCHEMA market TO tickwick_writer, tickwick_app, tickwick_reader;
GRANT CREATE ON SCHEMA market TO tickwick_writer; -- a continuous aggregate's owner needs it
ALTER DEFAULT PRIVILEGES FOR ROLE tickwick_owner IN SCHEMA market
    GRANT SELECT ON TABLES TO tickwick_writer, tickwick_app, tickwick_reader;

GRANT USAGE ON SCHEMA ops TO tickwick_owner, tickwick_writer, tickwick_app;
GRANT SELECT ON ALL TABLES IN SCHEMA ops TO tickwick_owner, tickwick_writer, tickwick_app;
GRANT CREATE ON SCHEMA ops TO tickwick_owner;
ALTER DEFAULT PRIVILEGES FOR ROLE tickwick_owner IN SCHEMA ops GRANT SELECT ON TABLES TO tickwick_writer, tickwick_app;
