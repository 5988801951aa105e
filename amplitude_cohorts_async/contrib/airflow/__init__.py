"""
A provider of Airflow: exports, uploads and syncs as tasks that defer.

Airflow reads `provider` at each start of a command, so nothing else is imported before
it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .exports import CohortExportOperator, occurrence_of
    from .hook import AmplitudeCohortsHook
    from .sensor import CohortComputedSensor
    from .syncs import CohortSyncOperator
    from .triggers import CohortComputedTrigger, CohortExportTrigger
    from .uploads import CohortUploadOperator

__all__ = (
    "AmplitudeCohortsHook",
    "CohortComputedSensor",
    "CohortComputedTrigger",
    "CohortExportOperator",
    "CohortExportTrigger",
    "CohortSyncOperator",
    "CohortUploadOperator",
    "occurrence_of",
)

_MODULES = {
    "AmplitudeCohortsHook": ".hook",
    "CohortComputedSensor": ".sensor",
    "CohortComputedTrigger": ".triggers",
    "CohortExportOperator": ".exports",
    "CohortExportTrigger": ".triggers",
    "CohortSyncOperator": ".syncs",
    "CohortUploadOperator": ".uploads",
    "occurrence_of": ".exports",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    value: object = getattr(import_module(_MODULES[name], __name__), name)
    globals()[name] = value

    return value
