"""
Where foreign exceptions become ours.
"""

from __future__ import annotations

from collections.abc import Callable

import aiohttp

_FOREIGN = (aiohttp.ClientError, OSError, UnicodeError)


class Border:
    """
    A context, as often as one likes, in which what the network does wrong becomes
    an error of ours.

    Args:
        translate: Makes the error of what was raised.
    """

    def __init__(self, translate: Callable[[Exception], Exception]) -> None:
        self._translate = translate

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, _FOREIGN):
            # Their messages and attributes quote links and headers whole.
            raise self._translate(error) from None
