"""
Exports in a FastAPI service: a lifespan, a dependency, and a router to mount.

A request starts an export and is answered at once. The job store keeps the export, so it
survives restarts, and whichever worker is alive goes on with it. The extra is `web`.
"""

from ...errors import MissingExtraError

try:
    import fastapi.sse as _sse
except ModuleNotFoundError as _error:
    raise MissingExtraError("exports in FastAPI", extra="web") from _error

from .exports import CohortExports
from .problems import Problem, install_problems
from .schemas import (
    CohortInfo,
    ExportOrder,
    ExportState,
    PlanInfo,
    PlannedExportInfo,
    UsageInfo,
)

del _sse

__all__ = (
    "CohortExports",
    "CohortInfo",
    "ExportOrder",
    "ExportState",
    "PlanInfo",
    "PlannedExportInfo",
    "Problem",
    "UsageInfo",
    "install_problems",
)
