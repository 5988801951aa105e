"""
The real time.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime


class SystemClock:
    """
    The running loop's clock, and the wall's.
    """

    def now(self) -> float:
        """
        Tell the loop's time in seconds; it never goes back.
        """
        return asyncio.get_running_loop().time()

    def utcnow(self) -> datetime:
        """
        Tell the date and time, aware and in UTC.
        """
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """
        Return after *seconds*.
        """
        await asyncio.sleep(seconds)
