"""The month's usage, as it was read once, and counted on since."""

from __future__ import annotations

from datetime import datetime

import attrs

from ..models import Usage


@attrs.frozen(kw_only=True)
class UsageReading:
    """
    The usage that the service told.

    Attributes:
        counted: The value of the limiter's counter then, without what was reserved
            only.
        at: When it was asked for, aware UTC by our clock.
    """

    usage: Usage
    counted: int
    at: datetime

    def is_over(self, now: datetime) -> bool:
        """Whether its month is over: by our clock, or when the service said."""
        resets_at = self.usage.resets_at

        return month_of(self.at) != month_of(now) or (
            resets_at is not None and now >= resets_at
        )

    def used(self, counted: int) -> int:
        """Return the usage at a later value of the counter."""
        # A counter that was lost since, or is another process's, starts from 0.
        return self.usage.used + max(0, counted - self.counted)


def month_of(at: datetime) -> str:
    """Return the name of a month, as in 2026-11."""
    return f"{at:%Y-%m}"
