"""
The types that public signatures name, for your own annotations.

Importing a name imports the part of the library that defines it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._core.csvtext import Buffer
    from ._exports.downloader import Progress
    from ._exports.many import ExportBatch
    from ._io.context import Clock
    from ._io.sinks.arrow import AmplitudeId, RecordBatch
    from ._writes.id_stream import IdFile, IdSource
    from ._writes.writer import OnSkipped
    from .events import EventHook

__all__ = (
    "AmplitudeId",
    "Buffer",
    "Clock",
    "EventHook",
    "ExportBatch",
    "IdFile",
    "IdSource",
    "OnSkipped",
    "Progress",
    "RecordBatch",
)

_MODULES = {
    "AmplitudeId": "._io.sinks.arrow",
    "Buffer": "._core.csvtext",
    "Clock": "._io.context",
    "EventHook": ".events",
    "ExportBatch": "._exports.many",
    "IdFile": "._writes.id_stream",
    "IdSource": "._writes.id_stream",
    "OnSkipped": "._writes.writer",
    "Progress": "._exports.downloader",
    "RecordBatch": "._io.sinks.arrow",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    return getattr(import_module(_MODULES[name], __package__), name)
