"""The types that public signatures name, for your own annotations."""

from ._core.csvtext import Buffer
from ._exports.many import ExportBatch
from ._id_source import IdSource
from ._io.context import Clock
from ._io.progress import Progress
from ._io.sinks.arrow import AmplitudeId, RecordBatch
from ._writes.id_stream import IdFile
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
