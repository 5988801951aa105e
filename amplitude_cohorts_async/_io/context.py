"""What every part of one client carries, whatever it is asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable

import attrs

from ..events import Event, EventHook
from ..policies import Retrying
from .clock import Clock

_logger = logging.getLogger(__name__)


@attrs.frozen(kw_only=True)
class Context:
    """
    Time, chance, patience, and who hears of events.

    Attributes:
        rng: Returns numbers from 0 to 1.

        retrying: How often a request is tried, and for how long.

        hook: Hears of events; see `emit()`.

        file_mode: The mode of new files; None leaves it to the umask.
    """

    clock: Clock
    rng: Callable[[], float]
    retrying: Retrying
    file_mode: int | None = None
    hook: EventHook | None = None

    def emit(self, event: Event) -> None:
        """
        Pass an event to the hook; a hook that fails is logged and disturbs nothing.
        """
        if self.hook is None:
            return

        try:
            self.hook(event)
        except Exception:
            _logger.warning("event hook failed", exc_info=True)
