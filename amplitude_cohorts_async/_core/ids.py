"""
Whether a word can be an id in a URL.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import InvalidInputError

_MOST_CHARACTERS = 256


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
