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
    from . import errors, events, limiters, limits, models, policies, testing, types
    from ._client import CohortsClient, export_cohort
    from ._exports.job import ExportJob
    from ._io.download.member_stream import MemberStream
    from ._io.limits.local import LocalLimiter
    from ._writes.compare import diff_ids
    from ._writes.id_stream import read_ids
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
    "diff_ids",
    "errors",
    "events",
    "export_cohort",
    "limiters",
    "limits",
    "models",
    "policies",
    "read_ids",
    "testing",
    "types",
)

_MODULES = {
    "CohortsClient": "._client",
    "ExportJob": "._exports.job",
    "LocalLimiter": "._io.limits.local",
    "MemberStream": "._io.download.member_stream",
    "diff_ids": "._writes.compare",
    "errors": ".errors",
    "events": ".events",
    "export_cohort": "._client",
    "limiters": ".limiters",
    "limits": ".limits",
    "models": ".models",
    "policies": ".policies",
    "read_ids": "._writes.id_stream",
    "testing": ".testing",
    "types": ".types",
}
"""Where the names are that `models` has not."""


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
