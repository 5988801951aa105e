"""Members as Arrow record batches; needs the extra ``parquet``."""

from __future__ import annotations

from .._io.sinks.arrow import (
    AmplitudeId,
    ArrowReader,
    RecordBatch,
    Schema,
    record_batches,
)

__all__ = ("AmplitudeId", "ArrowReader", "RecordBatch", "Schema", "record_batches")
