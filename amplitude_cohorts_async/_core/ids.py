"""
Checks of the ids that become part of a URL.

A caller names a cohort by its id or by a `Cohort`; `cohort_id_of()` is where the one
becomes the other.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import InvalidInputError
from ..models import Cohort

_MAX_LENGTH = 256

# Percent-encoded, a request id of this length still fits into a request line.
_MAX_REQUEST_ID_LENGTH = 1_024

_SHOWN = 100


_IN_THE_LIST = "the ids of all cohorts are in `list_cohorts()`"


def cohort_id_of(cohort: str | Cohort) -> str:
    """
    Return the id of a cohort that is named by its id or by a `Cohort`.

    Raises `InvalidInputError` for what cannot be an id; it says what it looks like.
    """
    return _checked_cohort_id(cohort.id if isinstance(cohort, Cohort) else cohort)


def _checked_cohort_id(value: object) -> str:
    if value is None:
        raise InvalidInputError(f"a cohort id is missing (None); {_IN_THE_LIST}")

    if isinstance(value, str) and "://" in value:
        raise InvalidInputError(
            f"{value[:_SHOWN]!r} is an address, not a cohort id; pass the last part of "
            f"the path, as in .../cohort/1a2bc3d"
        )

    if isinstance(value, str) and " " in value.strip():
        raise InvalidInputError(
            f"{value[:_SHOWN]!r} looks like a cohort's name, not its id: it holds white "
            f"space; {_IN_THE_LIST}"
        )

    if not isinstance(value, str | bytes) and hasattr(value, "__iter__"):
        raise InvalidInputError(
            f"one cohort id was expected, and several were given as "
            f"{type(value).__name__}; pass one, or use export_many()"
        )

    return checked_id(value, "cohort id")


def checked_id(value: object, what: str) -> str:
    """
    Return *value* if it can be a *what*, as in "cohort id".

    Raises `InvalidInputError` if it is empty, too long, not a string, or holds white
    space or control characters.
    """
    text = _checked_text(value, what, _MAX_LENGTH)

    # A path segment of dots would be resolved to another path on the way.
    if not text.isprintable() or " " in text or text in {".", ".."}:
        raise InvalidInputError(
            f"{text!r} cannot be a {what}: it holds white space or a control "
            f"character, or is a path of dots"
        )

    return text


def checked_request_id(value: object) -> str:
    """
    Return *value* if a job can be followed by this request id.

    The service makes request ids, so any text is percent-encoded and accepted; only
    what cannot be encoded raises `InvalidInputError`.
    """
    text = _checked_text(value, "request id", _MAX_REQUEST_ID_LENGTH)

    if text in {".", ".."} or has_surrogates(text):
        raise InvalidInputError(
            f"{text!r} cannot be a request id: it is a path of dots, or no valid text"
        )

    return text


def distinct_cohort_ids(cohorts: Iterable[str | Cohort]) -> list[str]:
    """Return the different ids of some cohorts in order, or raise `InvalidInputError`."""
    if isinstance(cohorts, str | bytes | Cohort):
        what = "Cohort" if isinstance(cohorts, Cohort) else "text"
        raise InvalidInputError(
            f"cohort ids were given as one {what}; pass a list of them, for one as well"
        )

    if not isinstance(cohorts, Iterable):
        raise InvalidInputError(
            f"cohort ids were given as {type(cohorts).__name__}; pass a list of them"
        )

    return list(dict.fromkeys(map(cohort_id_of, cohorts)))


def has_surrogates(text: str) -> bool:
    """Whether *text* holds half a surrogate pair, which has no UTF-8."""
    return not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text)


def _checked_text(value: object, what: str, max_length: int) -> str:
    if not isinstance(value, str):
        raise InvalidInputError(
            f"a {what} must be a string, got {type(value).__name__}; pass it in quotes"
        )

    if not value or len(value) > max_length:
        raise InvalidInputError(
            f"a {what} must have 1 to {max_length} characters, got {len(value)}"
        )

    return value
