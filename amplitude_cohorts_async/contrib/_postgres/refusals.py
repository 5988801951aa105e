"""Why a server lets nobody in with a URL, told without the user."""

from __future__ import annotations

import re

_NOT_LET_IN = "refused the user or the password"
_NO_USER = "has no such user"
_NO_DATABASE = "has no such database"

_REFUSALS = {
    "password authentication failed": _NOT_LET_IN,
    "SASL authentication failed": _NOT_LET_IN,
    "no password supplied": "wants a password",
    "no such user": _NO_USER,
    "role .* does not exist": _NO_USER,
    "no such database": _NO_DATABASE,
    "database .* does not exist": _NO_DATABASE,
    "no pg_hba.conf entry": "lets in no such user, database or machine",
    "does not support SSL": "does not speak TLS",
}
"""The words of Postgres, PgBouncer and libpq, and ours."""


def refusal_in(told: str) -> str | None:
    """
    Return why connecting is refused, however often one tries; None if it may be mended.

    libpq knows no error codes before it is connected. Other words, as those of a server
    that speaks another language, count as one that is away.
    """
    for words, refusal in _REFUSALS.items():
        if re.search(words, told):
            return refusal

    return None
