-- Why:  a gap that can never be filled says why not, and listeners are told of each gap that is closed.
-- Lock: ACCESS EXCLUSIVE on market.gaps, for a moment.
-- Undo: DROP TRIGGER announce ON market.gaps; DROP FUNCTION market.announce_gap(); ALTER TABLE market.gaps DROP reason.

ALTER TABLE market.gaps
    ADD reason text,
    ADD CONSTRAINT gaps_reason_check CHECK ((state = 'unfillable') = (reason IS NOT NULL)) NOT VALID;
COMMENT ON COLUMN market.gaps.reason IS 'Why the gap is unfillable.';

CREATE INDEX gaps_open ON market.gaps (instrument_id, from_id) WHERE state = 'open';

CREATE FUNCTION market.announce_gap() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('gaps', json_build_array(json_build_array(
        NEW.instrument_id, NEW.from_id, NEW.to_id, (extract(epoch FROM NEW.from_time) * 1000000)::bigint,
        (extract(epoch FROM NEW.to_time) * 1000000)::bigint, NEW.state))::text);
    RETURN NULL;
END
$$;

CREATE TRIGGER announce AFTER INSERT OR UPDATE OF state ON market.gaps
    FOR EACH ROW WHEN (NEW.state <> 'open') EXECUTE FUNCTION market.announce_gap();
