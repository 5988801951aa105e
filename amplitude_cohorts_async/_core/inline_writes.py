"""
When a blocking write may be done on the event loop.

A write to the page cache is over sooner than its hand-over to a worker thread would be; a
write to a slow disk holds up the loop. The two cannot be told apart beforehand, so writes
are timed, and the next one is made where the last ones suggest.

It is worth a fifth of the processor's time: 512 MB over TLS to a memory disk take 2.1 s/GB
with it, and 2.6 with every write in a thread (asyncio, medians of eight on a busy machine of
two cores; 2.2 and 2.45 on uvloop).
"""

from __future__ import annotations

_FAST_WRITE = 0.002
"""Seconds that a write may take on the loop."""

_BACKOFF = (8, 1024)
"""Fast writes in a thread that a slow one asks for: at first, and at most."""


class InlineWritePolicy:
    """
    Whether the next write may be expected to be fast.

    Attributes:
        allows: The answer.
    """

    def __init__(self) -> None:
        self.allows = False
        self._missing = 1
        self._backoff = _BACKOFF[0]

    def record(self, seconds: float) -> None:
        """Learn from the time that one write took."""
        if seconds > _FAST_WRITE:
            if self.allows:
                # It held up the loop. A disk that does so again and again has to be
                # fast for twice as long each time.
                self._backoff = min(2 * self._backoff, _BACKOFF[1])
            self._missing = self._backoff
        else:
            self._missing -= 1

        self.allows = self._missing <= 0
