"""
Async client for Amplitude's Behavioral Cohorts API.

Start with `CohortsClient`, or with `export_cohort()` for all of it in one call.
"""

from __future__ import annotations

from . import errors, limits
from ._client import CohortsClient
from ._io.ids import read_ids
from ._io.limiter import LocalLimiter
from ._io.rows import MemberStream
from ._job import ExportJob
from ._oneshot import export_cohort
from ._version import VERSION
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
