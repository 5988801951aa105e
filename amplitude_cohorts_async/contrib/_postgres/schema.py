"""
What the database holds: tables and two functions, in a schema of their own.

- `cohorts_version`: which release made it; by how much the clock of the exports is
  ahead, see `job_store`; and when somebody tidied last.
- `cohorts_place`: a row for each place of each limit, free from a moment on.
- `cohorts_pace`: what the service said to one process, for all; and the epoch.
- `cohorts_counter`: what was spent this month.
- `cohorts_group`, `cohorts_row`: the exports.
- `cohorts_clock()`: the time of all of them. `now()` would be that of the beginning
  of a transaction, which may have waited for a lock since.
- `cohorts_epoch()`: differs once another server answers, or this one has been started
  anew, from a restored copy perhaps. It asks as its owner, so that all roles get the
  same answer; what the owner may not ask is left out.
"""

from __future__ import annotations

import re

from psycopg import sql

from ...errors import ConfigurationError

MAJOR, MINOR = 1, 0
"""A newer minor only adds; a newer major is not understood."""

DEFAULT_SCHEMA = "amplitude_cohorts"
_NAME = re.compile(r"(?!pg_)[A-Za-z_][\w-]{0,62}", re.ASCII)

_DDL = """\
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = {name}) THEN
        CREATE SCHEMA {schema};
    END IF;
END $$;

CREATE TABLE IF NOT EXISTS {schema}.cohorts_version (
    major integer NOT NULL,
    minor integer NOT NULL,
    ahead double precision NOT NULL DEFAULT 0,
    tidied_at double precision NOT NULL DEFAULT 0
);
INSERT INTO {schema}.cohorts_version (major, minor)
    SELECT {major}, {minor}
    WHERE NOT EXISTS (SELECT FROM {schema}.cohorts_version);

CREATE TABLE IF NOT EXISTS {schema}.cohorts_place (
    app text,
    pool text,
    number integer,
    free_at double precision NOT NULL,
    permit text NOT NULL DEFAULT '',
    PRIMARY KEY (app, pool, number)
) WITH (fillfactor = 50);

CREATE TABLE IF NOT EXISTS {schema}.cohorts_pace (
    app text PRIMARY KEY,
    epoch text NOT NULL,
    recovers_at double precision NOT NULL,
    paused_until double precision NOT NULL DEFAULT 0,
    step integer NOT NULL DEFAULT 0,
    step_until double precision NOT NULL DEFAULT 0,
    counted_until double precision NOT NULL DEFAULT 0,
    space_until double precision NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE IF NOT EXISTS {schema}.cohorts_counter (
    app text,
    name text,
    value bigint NOT NULL,
    until double precision NOT NULL,
    entries text[] NOT NULL,
    PRIMARY KEY (app, name)
) WITH (fillfactor = 50);

CREATE TABLE IF NOT EXISTS {schema}.cohorts_group (
    app text,
    name text,
    changes text[] NOT NULL,
    changed_at double precision NOT NULL,
    has_rows boolean NOT NULL,
    PRIMARY KEY (app, name)
);
CREATE INDEX IF NOT EXISTS cohorts_group_changed
    ON {schema}.cohorts_group (app, changed_at);

CREATE TABLE IF NOT EXISTS {schema}.cohorts_row (
    app text,
    name text,
    key text,
    value text NOT NULL,
    PRIMARY KEY (app, name, key)
);

CREATE OR REPLACE FUNCTION {schema}.cohorts_clock() RETURNS double precision
LANGUAGE sql VOLATILE AS $$
    SELECT extract(epoch FROM pg_catalog.clock_timestamp())::double precision
$$;

CREATE OR REPLACE FUNCTION {schema}.cohorts_epoch() RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    system text := '?';
    timeline text := '?';
BEGIN
    BEGIN
        SELECT system_identifier::text INTO system FROM pg_control_system();
    EXCEPTION WHEN insufficient_privilege THEN NULL;
    END;
    BEGIN
        timeline := left(pg_walfile_name(pg_current_wal_lsn()), 8);
    EXCEPTION WHEN insufficient_privilege THEN NULL;
    END;
    RETURN concat_ws(
        '/', system, timeline, extract(epoch FROM pg_postmaster_start_time())
    );
END
$$;
"""

_GRANTS = """
GRANT USAGE ON SCHEMA {schema} TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role};
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO {role};
"""


def checked_schema(name: str) -> str:
    """Return the name of a schema; raise `ConfigurationError` if it is none."""
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            "schema= gives no name for a schema; use up to 63 letters, digits, _ or -, "
            "a letter first, and no name of the server's own (pg_...)"
        )

    return name


def schema_sql(schema: str = DEFAULT_SCHEMA, role: str | None = None) -> str:
    """
    Return the statements that make the schema, for a role that may.

    Args:
        role: One that may use it then.
    """
    names = {
        "schema": sql.Identifier(checked_schema(schema)),
        "name": sql.Literal(schema),
        "major": sql.Literal(MAJOR),
        "minor": sql.Literal(MINOR),
    }
    grants: sql.Composable = sql.SQL("")

    if role is not None:
        grants = sql.SQL(_GRANTS).format(**names, role=sql.Identifier(role))

    return sql.Composed([sql.SQL(_DDL).format(**names), grants]).as_string()
