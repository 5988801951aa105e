"""
The vendor's service for tests: an emulator, a clock that does not wait, and
faults to queue; and what every limiter promises, as tests for one of your own.

The emulator shares no code with the client: it is a second reading of the page
https://amplitude.com/docs/apis/analytics/behavioral-cohorts
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import faults
    from .clock import FakeClock, SystemClock
    from .emulator import CohortsEmulator
    from .faults import (
        Fault,
        bad_rows,
        broken,
        changed,
        corrupt,
        cut_off,
        edited,
        grown,
        hang,
        html,
        ignores_conditions,
        ignores_range,
        job_failed,
        link_expired,
        lost_answer,
        never_ends,
        refused,
        shrunk,
        slow,
        stalled,
        throttled,
        torn,
        with_header,
        without_etag,
        works,
        wrong_etag,
    )
    from .job_stores import JobStoreConformance
    from .limiters import LimiterConformance
    from .options import Assumptions
    from .quotas import Quotas, RequestRecord, Violation

__all__ = (
    "Assumptions",
    "CohortsEmulator",
    "FakeClock",
    "Fault",
    "JobStoreConformance",
    "LimiterConformance",
    "Quotas",
    "RequestRecord",
    "SystemClock",
    "Violation",
    "bad_rows",
    "broken",
    "changed",
    "corrupt",
    "cut_off",
    "edited",
    "faults",
    "grown",
    "hang",
    "html",
    "ignores_conditions",
    "ignores_range",
    "job_failed",
    "link_expired",
    "lost_answer",
    "never_ends",
    "refused",
    "shrunk",
    "slow",
    "stalled",
    "throttled",
    "torn",
    "with_header",
    "without_etag",
    "works",
    "wrong_etag",
)

_HOMES = {
    "Assumptions": "options",
    "CohortsEmulator": "emulator",
    "FakeClock": "clock",
    "JobStoreConformance": "job_stores",
    "LimiterConformance": "limiters",
    "Quotas": "quotas",
    "RequestRecord": "quotas",
    "SystemClock": "clock",
    "Violation": "quotas",
}


def __getattr__(name: str) -> object:
    # Importing this package costs next to nothing; its parts come when used.
    if name == "faults":
        return import_module(f"{__name__}.faults")

    if name in __all__:
        home = _HOMES.get(name, "faults")
        return getattr(import_module(f"{__name__}.{home}"), name)

    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
