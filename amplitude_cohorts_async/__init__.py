"""
Async client for Amplitude's Behavioral Cohorts API.

Start with `CohortsClient`, or with `export_cohort()` for all of it in one call.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING

from ._version import VERSION

if TYPE_CHECKING:
    from . import errors, limits
    from ._client import CohortsClient, export_cohort
    from ._io.download.rows import MemberStream
    from ._io.limits.limiter import LocalLimiter
    from ._io.writes.ids import read_ids
    from ._job import ExportJob
    from .models import (
        Cohort,
        ExportStatus,
        IdType,
        Member,
        MembershipDiff,
        MembershipReport,
        Region,
        Routes,
        SavedExport,
        SyncReport,
        UploadReport,
        Usage,
    )

__version__ = VERSION

# Who wants to know what we log says so; to nobody else we speak.
logging.getLogger(__name__).addHandler(logging.NullHandler())

__all__ = (
    "Cohort",
    "CohortsClient",
    "ExportJob",
    "ExportStatus",
    "IdType",
    "LocalLimiter",
    "Member",
    "MemberStream",
    "MembershipDiff",
    "MembershipReport",
    "Region",
    "Routes",
    "SavedExport",
    "SyncReport",
    "UploadReport",
    "Usage",
    "__version__",
    "errors",
    "export_cohort",
    "limits",
    "read_ids",
)

_MODULES = {
    "CohortsClient": "._client",
    "ExportJob": "._job",
    "LocalLimiter": "._io.limits.limiter",
    "MemberStream": "._io.download.rows",
    "errors": ".errors",
    "export_cohort": "._client",
    "limits": ".limits",
    "read_ids": "._io.writes.ids",
}
"""
Where the names are that `models` has not.
"""


def __getattr__(name: str) -> object:
    # aiohttp alone takes a third of a second. A command's help, a settings
    # module or a type that is only looked at should not have to wait for it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    place = _MODULES.get(name, ".models")
    module = import_module(place, __name__)
    value: object = module if place == f".{name}" else getattr(module, name)
    globals()[name] = value

    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
