"""Checks of the ids that become part of a URL."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import InvalidInputError

_MAX_LENGTH = 256

# Percent-encoded, a request id of this length still fits into a request line.
_MAX_REQUEST_ID_LENGTH = 1_024


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


def checked_distinct_ids(values: Iterable[str], what: str) -> list[str]:
    """Return the different ids of *values* in order, or raise `InvalidInputError`."""
    if isinstance(values, str | bytes):
        raise InvalidInputError(
            f"{what}s were given as one text; pass a list of them, for one as well"
        )

    if not isinstance(values, Iterable):
        raise InvalidInputError(
            f"{what}s were given as {type(values).__name__}; pass a list of them"
        )

    return list(dict.fromkeys(checked_id(value, what) for value in values))


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
