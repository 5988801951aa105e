"""Which texts can be ids in a URL."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import InvalidInputError

_MOST_CHARACTERS = 256

_MOST_OF_THE_SERVICE = 1_024
"""
Characters of an id that the service made up: percent-encoded, it still fits into
the first line of a request.
"""


def checked_id(value: object, what: str) -> str:
    """
    Return *value* when it can name a thing of the service.

    Args:
        value: The caller's argument.

        what: What it names, for the message: "cohort id".

    Raises:
        InvalidInputError: It is empty, over-long, not a string, or holds
            white space or control characters.
    """
    if not isinstance(value, str):
        raise InvalidInputError(
            f"a {what} must be a string, got {type(value).__name__}; pass it in quotes"
        )

    if not value or len(value) > _MOST_CHARACTERS:
        raise InvalidInputError(
            f"a {what} must have 1 to {_MOST_CHARACTERS} characters, got {len(value)}"
        )

    # A path of dots would be another path by the time it arrives.
    if not value.isprintable() or " " in value or value in {".", ".."}:
        raise InvalidInputError(
            f"{value!r} cannot be a {what}: it holds white space or a control "
            f"character, or is a path of dots"
        )

    return value


def checked_request_id(value: object) -> str:
    """
    Return *value* when an export can be followed by it.

    The service gives request ids: whatever text it likes is percent-encoded, and
    only what no encoding helps is refused.

    Raises:
        InvalidInputError: It is empty, over-long, no text, or a path of dots.
    """
    if not isinstance(value, str):
        raise InvalidInputError(
            f"a request id must be a string, got {type(value).__name__}; pass it in "
            f"quotes"
        )

    if not value or len(value) > _MOST_OF_THE_SERVICE:
        raise InvalidInputError(
            f"a request id must have 1 to {_MOST_OF_THE_SERVICE} characters, got "
            f"{len(value)}"
        )

    # A lone half of a surrogate pair has no UTF-8, and dots cannot be encoded.
    is_text = value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value)

    if value in {".", ".."} or not is_text:
        raise InvalidInputError(
            f"{value!r} cannot be a request id: it is a path of dots, or no valid text"
        )

    return value


def checked_ids(values: Iterable[str], what: str) -> list[str]:
    """
    Return the ids of *values*, each of them once, in their order.

    Raises:
        InvalidInputError: One of them cannot be an id, or *values* is one text.
    """
    if isinstance(values, str | bytes):
        raise InvalidInputError(
            f"{what}s were given as one text; pass a list of them, for one as well"
        )

    if not isinstance(values, Iterable):
        raise InvalidInputError(
            f"{what}s were given as {type(values).__name__}; pass a list of them"
        )

    return list(dict.fromkeys(checked_id(value, what) for value in values))
