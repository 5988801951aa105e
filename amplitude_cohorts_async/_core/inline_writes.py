"""
When a blocking write may be done on the event loop.

A write to the page cache is over sooner than its hand-over to a worker thread
would be; a write to a slow disk holds up everybody. Nobody can tell the two
apart beforehand, so writes are timed, and trust is earned and lost.
"""

from __future__ import annotations

_BRIEF = 0.002
_PENANCE = (8, 1024)


class InlineWritePolicy:
    """
    Whether the next write may be expected to be brief.

    Attributes:
        holds: The answer.
    """

    def __init__(self) -> None:
        self.holds = False
        self._missing = 1
        self._penance = _PENANCE[0]

    def note(self, seconds: float) -> None:
        """Take note of how long one write took."""
        if seconds > _BRIEF:
            if self.holds:
                # It held up the loop. A disk that does so again and again has
                # to behave for twice as long each time.
                self._penance = min(2 * self._penance, _PENANCE[1])
            self._missing = self._penance
        else:
            self._missing -= 1

        self.holds = self._missing <= 0
