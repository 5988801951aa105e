"""
Counters that outlive a client, and perhaps a process.
"""

from __future__ import annotations

import threading
from datetime import datetime


class OwnTally:
    """
    Counters of this process, for any thread.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._counts: dict[str, tuple[int, datetime]] = {}

    async def tally(self, name: str, by: int, *, until: datetime) -> int:
        """
        Add to a counter; tell its value. Counters that end earlier are dropped.
        """
        with self._mutex:
            count = self._counts.get(name, (0, until))[0] + by
            kept = {key: each for key, each in self._counts.items() if each[1] >= until}
            self._counts = {**kept, name: (count, until)}

        return count
