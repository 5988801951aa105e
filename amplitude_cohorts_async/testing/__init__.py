"""
The vendor's service for tests: an emulator, a clock that does not wait, and
all that can go wrong.

It stands on its own and shares no code with the client: a second opinion on
the vendor's page. https://amplitude.com/docs/apis/analytics/behavioral-cohorts
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import faults
    from .clock import FakeClock, SystemClock
    from .emulator import CohortsEmulator
    from .faults import Fault
    from .ledger import RequestRecord, Violation
    from .options import Assumptions
    from .quotas import Quotas

__all__ = (
    "Assumptions",
    "CohortsEmulator",
    "FakeClock",
    "Fault",
    "Quotas",
    "RequestRecord",
    "SystemClock",
    "Violation",
    "faults",
)

_HOMES = {
    "Assumptions": "options",
    "CohortsEmulator": "emulator",
    "FakeClock": "clock",
    "Fault": "faults",
    "Quotas": "quotas",
    "RequestRecord": "ledger",
    "SystemClock": "clock",
    "Violation": "ledger",
}


def __getattr__(name: str) -> object:
    # Importing this package costs next to nothing; its parts come when used.
    if name == "faults":
        return import_module(f"{__name__}.faults")

    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
