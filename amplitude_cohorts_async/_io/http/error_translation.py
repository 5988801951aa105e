"""Translation of foreign exceptions into ours."""

from __future__ import annotations

from collections.abc import Callable

import aiohttp

_FOREIGN = (aiohttp.ClientError, OSError, UnicodeError)


class ErrorTranslation:
    """
    A reusable context in which aiohttp's and the system's errors become errors of ours.

    Args:
        translate: Makes the error of what was raised.
    """

    def __init__(self, translate: Callable[[Exception], Exception]) -> None:
        self._translate = translate

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _: object) -> None:
        if not isinstance(error, _FOREIGN):
            return

        ours = self._translate(error)

        # Their messages and attributes quote links and headers whole, so that they
        # must not go on as the context of ours, either, which is set by raising.
        try:
            raise ours from None
        finally:
            ours.__context__ = None
