"""
An answer whose body is still on the wire.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import TypeAlias

import aiohttp

Border: TypeAlias = Callable[[], AbstractContextManager[None]]
"""
Makes a context in which foreign exceptions become ours.
"""


class Answer:
    """
    Status and headers of an answer, and its body as it comes.

    Attributes:
        headers: By lower-case name; the last of a repeated name.
    """

    def __init__(self, response: aiohttp.ClientResponse, border: Border) -> None:
        self._response = response
        self._border = border
        self.status = response.status
        self.headers = {name.lower(): text for name, text in response.headers.items()}

    @property
    def is_delimited(self) -> bool:
        """
        Whether the body's end can be told from a cut.
        """
        return "content-length" in self.headers or (
            "chunked" in self.headers.get("transfer-encoding", "").lower()
        )

    async def read(self) -> bytes:
        """
        Read the body to its end.
        """
        with self._border():
            return await self._response.read()

    async def chunks(self) -> AsyncIterator[bytes]:
        """
        Hand out the body in the pieces it comes in.
        """
        while True:
            # What the taker of a piece raises is not the network's doing.
            with self._border():
                chunk = await self._response.content.readany()

            if not chunk:
                return

            yield chunk
