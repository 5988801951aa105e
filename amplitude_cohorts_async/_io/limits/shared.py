"""What the limiters that several processes share have in common."""

from __future__ import annotations

import math
import re
from hashlib import sha256

from ...errors import ConfigurationError

_NAME = re.compile(r"[\w.:@-]{1,100}", re.ASCII)
# How long a place may be held before its request is sent, in leases.
_RESERVE = 1 / 6


def checked_name(app: str) -> str:
    """Return an app's name; `ConfigurationError` if no key can contain it."""
    if not _NAME.fullmatch(app):
        raise ConfigurationError(
            f"{app!r} cannot name an app; use up to 100 letters, digits or _.:@-"
        )

    return app


class AppName:
    """The one app that a limiter serves, and its name in what processes share."""

    def __init__(self, name: str | None, *, stated_by: str, others: str = "") -> None:
        """
        Check a name.

        Args:
            name: None takes the one that the client gives.
            stated_by: The call that states it.
            others: What else to know of limiters for other apps.
        """
        self._name = None if name is None else checked_name(name)
        self._bound: str | None = None
        self._stated_by = stated_by
        self._others = others

    def bind(self, app: str) -> None:
        """Bind it to the app of a client; `ConfigurationError` for a second app."""
        if self._bound not in {None, app}:
            raise ConfigurationError(
                "this limiter keeps the limits of another app; make one for each"
                f"{self._others}"
            )

        self._bound = app
        self._name = self._name or checked_name(app)

    def known(self) -> str:
        """Return the name; `ConfigurationError` if it is not known yet."""
        if self._name is None:
            raise ConfigurationError(
                "this limiter does not know its app; pass it to a client as "
                f"limiter=..., or name the app with {self._stated_by}"
            )

        return self._name


def hashed_key(what: str, name: str) -> str:
    """Return a key that contains a hash of the name instead of the name."""
    return f"{what}:{sha256(name.encode()).hexdigest()[:16]}"


def checked_lease(seconds: float) -> float:
    """Return a lease; `ConfigurationError` if it is not a time in seconds."""
    if not 0 < seconds < math.inf:
        raise ConfigurationError(f"lease is {seconds!r}; give seconds, more than zero")

    return seconds


def good_for(lease: float, release_delay: float) -> float:
    """Return how long a place is kept that is not renewed: its holder stops earlier."""
    return lease + max(lease * _RESERVE, release_delay)
