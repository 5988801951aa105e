"""
Ways to read a finished file of members; each is run in a process of its own.

    python benchmarks/rows/ways.py WAY FILE

prints one line of JSON. "rows" counts what was read, "rss" is MiB above what
the process had after its imports, "stall" the lateness of a 1 ms ticker in the
same event loop, in ms, for the ways that have one.
"""

from __future__ import annotations

import asyncio
import csv
import json
import resource
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from importlib import import_module
from pathlib import Path

from amplitude_cohorts_async._core.export_errors import ExportErrors
from amplitude_cohorts_async._core.tokens import ExportRef
from amplitude_cohorts_async._io.download.member_stream import MemberStream
from amplitude_cohorts_async.models import Member

PIECE = 64 * 1024


def members_bare(path: Path) -> int:
    """Make the same objects with nothing but `csv.reader`."""
    rows, batch = 0, []

    for row in _records(path):
        batch.append(row)
        if len(batch) == 10_000:
            rows += len(batch)
            batch = []

    return rows + len(batch)


def members_thread(path: Path) -> dict[str, object]:
    """Make them with `csv.reader` in a worker thread, as one would at first."""

    async def batches() -> AsyncIterator[list[Member]]:
        records = _records(path)

        while batch := await asyncio.to_thread(_some, records):
            yield batch

    return asyncio.run(_beside_a_ticker(batches()))


def members(path: Path) -> dict[str, object]:
    """Make them with this package."""

    async def stream() -> dict[str, object]:
        errors = ExportErrors(ExportRef(request_id="benchmark"))
        batches = MemberStream(_pieces(path), errors=errors).batches(10_000)
        return await _beside_a_ticker(batches)

    return asyncio.run(stream())


def columns(path: Path) -> int:
    """Read record batches with this package."""
    reader = import_module("amplitude_cohorts_async.contrib.arrow").ArrowReader()

    with path.open("rb") as file:
        while piece := file.read(PIECE):
            for _ in reader.feed(piece):
                pass

    for _ in reader.finish():
        pass

    return int(reader.rows)


def columns_pyarrow(path: Path) -> int:
    """Read record batches with pyarrow, streaming."""
    return sum(batch.num_rows for batch in _arrow_stream(path))


def columns_polars(path: Path) -> int:
    """Read a polars frame, all text."""
    return int(import_module("polars").read_csv(path, infer_schema=False).height)


def columns_pandas(path: Path) -> int:
    """Read a pandas frame, all text."""
    read = import_module("pandas").read_csv

    return len(read(path, dtype=str, keep_default_na=False))


def columns_duckdb(path: Path) -> int:
    """Read with DuckDB to Arrow, all text."""
    query = f"SELECT * FROM read_csv('{path}', all_varchar = true)"
    batches = import_module("duckdb").sql(query).to_arrow_reader()

    return sum(batch.num_rows for batch in batches)


def parquet(path: Path) -> int:
    """Write Parquet with this package."""
    writing = import_module("amplitude_cohorts_async.contrib.parquet")

    with path.open("rb") as file, _target(path).open("wb") as target:
        writer = writing.ParquetWriter(target)
        while piece := file.read(PIECE):
            writer.write(piece)
        writer.finish()

    return int(writer.rows)


def parquet_pyarrow(path: Path) -> int:
    """Write Parquet with pyarrow, streaming."""
    stream, rows = _arrow_stream(path), 0
    open_writer = import_module("pyarrow.parquet").ParquetWriter

    with open_writer(_target(path), stream.schema, compression="zstd") as writer:
        for batch in stream:
            writer.write_batch(batch)
            rows += batch.num_rows

    return rows


def parquet_polars(path: Path) -> int:
    """Write Parquet with polars, streaming."""
    polars = import_module("polars")
    polars.scan_csv(path, infer_schema=False).sink_parquet(
        _target(path), compression="zstd"
    )

    return _rows_in(_target(path))


def parquet_pandas(path: Path) -> int:
    """Write Parquet with pandas."""
    read = import_module("pandas").read_csv
    frame = read(path, dtype=str, keep_default_na=False)
    frame.to_parquet(_target(path), compression="zstd", index=False)

    return len(frame)


def parquet_duckdb(path: Path) -> int:
    """Write Parquet with DuckDB."""
    import_module("duckdb").sql(
        f"COPY (SELECT * FROM read_csv('{path}', all_varchar = true)) "
        f"TO '{_target(path)}' (FORMAT parquet, COMPRESSION zstd)"
    )

    return _rows_in(_target(path))


def _records(path: Path) -> Iterator[Member]:
    with path.open(encoding="utf-8", newline="") as file:
        records = csv.reader(file)
        labels = next(records)[2:]

        # No dict is made where there is nothing to put in, as we do not, too.
        if not labels:
            for amplitude_id, user_id in records:
                yield Member(amplitude_id or None, user_id or None)

        for row in records:
            properties = dict(zip(labels, row[2:], strict=True))
            yield Member(row[0] or None, row[1] or None, None, properties)


def _some(records: Iterator[Member]) -> list[Member]:
    return [member for _, member in zip(range(10_000), records, strict=False)]


def _arrow_stream(path: Path) -> object:
    arrow, reading = import_module("pyarrow"), import_module("pyarrow.csv")

    with path.open("rb") as file:
        names = next(csv.reader([file.readline().decode()]))

    text = dict.fromkeys(names, arrow.string())

    return reading.open_csv(
        path,
        parse_options=reading.ParseOptions(newlines_in_values=True),
        convert_options=reading.ConvertOptions(column_types=text),
    )


def _target(path: Path) -> Path:
    return path.with_suffix(".parquet")


def _rows_in(path: Path) -> int:
    return int(import_module("pyarrow.parquet").read_metadata(path).num_rows)


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece
            await asyncio.sleep(0)


async def _beside_a_ticker(batches: AsyncIterator[list[Member]]) -> dict[str, object]:
    late: list[float] = []

    async def tick() -> None:
        while True:
            due = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            late.append((time.perf_counter() - due) * 1000)

    ticker = asyncio.create_task(tick())
    rows = 0

    async for batch in batches:
        rows += len(batch)

    ticker.cancel()
    late.sort()
    marks = (len(late) // 2, len(late) * 99 // 100, -1)

    return {"rows": rows, "stall": [round(late[mark], 2) for mark in marks]}


NEEDS = {
    "columns": ["pyarrow.csv", "pyarrow.compute"],
    "columns_pyarrow": ["pyarrow.csv"],
    "columns_polars": ["polars"],
    "columns_pandas": ["pandas"],
    "columns_duckdb": ["duckdb", "pyarrow"],
    "parquet": ["pyarrow.csv", "pyarrow.compute", "pyarrow.parquet"],
    "parquet_pyarrow": ["pyarrow.csv", "pyarrow.parquet"],
    "parquet_polars": ["polars", "pyarrow.parquet"],
    "parquet_pandas": ["pandas", "pyarrow.parquet"],
    "parquet_duckdb": ["duckdb", "pyarrow.parquet"],
}


def main() -> None:
    """Run one way and print what it took."""
    name, path = sys.argv[1], Path(sys.argv[2])
    way: Callable[[Path], object] = globals()[name]

    for module in NEEDS.get(name, []):
        import_module(module)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    found = way(path)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    result = found if isinstance(found, dict) else {"rows": found}
    result |= {"seconds": wall, "cpu": cpu, "rss": (after - before) / 1024}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
