"""The command that prints the SQL of the schema, for a role that may run it."""

from __future__ import annotations

import argparse
import sys

from ...errors import ConfigurationError
from .schema import DEFAULT_SCHEMA, schema_sql


def print_schema(arguments: list[str]) -> None:
    """Print the SQL that makes the schema that the arguments name."""
    parser = argparse.ArgumentParser(
        prog="python -m amplitude_cohorts_async.contrib.postgres",
        description="Print the SQL that makes the tables, for psql -1 -v ON_ERROR_STOP=1",
    )
    parser.add_argument("schema", nargs="?", default=DEFAULT_SCHEMA, metavar="SCHEMA")
    parser.add_argument(
        "role", nargs="?", metavar="ROLE", help="may use the tables afterwards"
    )
    given = parser.parse_args(arguments)

    try:
        sys.stdout.write(schema_sql(given.schema, given.role))
    except ConfigurationError as error:
        parser.error(str(error))
