"""Members as a Parquet file, written while they arrive; needs the extra ``parquet``."""

from __future__ import annotations

from .._io.sinks.arrow import ParquetWriter, Writable

__all__ = ("ParquetWriter", "Writable")
