"""What the limiters that several processes share have in common."""

from __future__ import annotations

import math
import random
import re
from hashlib import sha256

from ...errors import ConfigurationError

_NAME = re.compile(r"[\w.:@-]{1,100}", re.ASCII)
# How long a place may be held before its request is sent, in leases.
_RESERVE = 1 / 6


def checked_name(app: str) -> str:
    """Return the name of an app; raise `ConfigurationError` if no key can contain it."""
    if not _NAME.fullmatch(app):
        raise ConfigurationError(
            f"{app!r} cannot name an app; use up to 100 letters, digits or _.:@-"
        )

    return app


def hashed(what: str, name: str) -> str:
    """Return a key that contains a hash of the name instead of the name."""
    return f"{what}:{sha256(name.encode()).hexdigest()[:16]}"


def checked_lease(seconds: float) -> float:
    """Return a lease; raise `ConfigurationError` if it does not last for some seconds."""
    if not 0 < seconds < math.inf:
        raise ConfigurationError(f"lease is {seconds!r}; give seconds, more than zero")

    return seconds


def good_for(lease: float, release_delay: float) -> float:
    """Return how long a place is kept that is not renewed: its holder stops earlier."""
    return lease + max(lease * _RESERVE, release_delay)


def between(least: float, most: float) -> float:
    """Return a random number of seconds, so that processes do not poll in step."""
    return random.uniform(least, most)  # noqa: S311  no secret depends on it
