"""Text that is used as it is, and shown by nothing."""

from __future__ import annotations

from typing import NoReturn, TypeVar

HIDDEN = "[hidden]"

T = TypeVar("T")


class Secret(str):
    """
    A text whose repr hides it, and that cannot be pickled.

    A traceback with the locals of its frames, a debugger and the repr of whatever holds
    it, aiohttp's headers for example, show no more than that there is one.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return HIDDEN

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError(
            "a key is neither pickled nor copied; create a client in each process"
        )


def hidden(value: T) -> T | Secret:
    """Return a text as a `Secret`, and anything else as it is."""
    return Secret(value) if isinstance(value, str) else value
