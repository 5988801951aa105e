"""
Async client for Amplitude's Behavioral Cohorts API.

Start with `CohortsClient`, or export one cohort with `export_cohort()`.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING

from ._version import VERSION

if TYPE_CHECKING:
    from . import (
        blocking,
        destinations,
        errors,
        events,
        jobs,
        limiters,
        limits,
        models,
        policies,
        testing,
        types,
    )
    from ._client import CohortsClient, export_cohort
    from ._exports.job import ExportJob
    from ._io.download.member_stream import MemberStream
    from ._io.limits.local import LocalLimiter
    from ._io.limits.sqlite import SqliteLimiter
    from ._writes.compare import diff_ids
    from ._writes.id_stream import read_ids
    from .models import (
        Cohort,
        ExportStatus,
        IdType,
        Member,
        MembershipDiff,
        MembershipOperation,
        MembershipReport,
        Region,
        Routes,
        SavedExport,
        SyncReport,
        UploadReport,
        Usage,
    )

__version__ = VERSION

# Libraries must not log by default; the application adds handlers.
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
    "MembershipOperation",
    "MembershipReport",
    "Region",
    "Routes",
    "SavedExport",
    "SqliteLimiter",
    "SyncReport",
    "UploadReport",
    "Usage",
    "__version__",
    "blocking",
    "destinations",
    "diff_ids",
    "errors",
    "events",
    "export_cohort",
    "jobs",
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
    "SqliteLimiter": "._io.limits.sqlite",
    "diff_ids": "._writes.compare",
    "export_cohort": "._client",
    "read_ids": "._writes.id_stream",
}
"""The module of each function, and of each class that is not in `.models`."""


def __getattr__(name: str) -> object:
    # Importing aiohttp takes a third of a second, which the command's help, or code
    # that only names a type, should not have to wait for.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    if name in _MODULES or name[0].isupper():
        module = import_module(_MODULES.get(name, ".models"), __name__)
        value: object = getattr(module, name)
    else:
        value = import_module(f".{name}", __name__)
    globals()[name] = value

    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
