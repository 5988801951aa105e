"""
Compare ways to read a file of members: speed, memory, and stall of the loop.

    python benchmarks/rows/run.py [--members 2000000] [--rounds 5] [--json FILE]

All ways take turns, each run in a fresh process; the table has the medians. A
peer that is not installed is named and left out.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

WAYS = {
    "members_bare": "csv.reader, the same objects",
    "members_thread": "csv.reader in a worker thread",
    "members": "this package: members()",
    "columns_pyarrow": "pyarrow, streaming",
    "columns_polars": "polars",
    "columns_pandas": "pandas",
    "columns_duckdb": "DuckDB",
    "columns": "this package: record batches",
    "parquet_pyarrow": "pyarrow, streaming, to Parquet",
    "parquet_polars": "polars, to Parquet",
    "parquet_pandas": "pandas, to Parquet",
    "parquet_duckdb": "DuckDB, to Parquet",
    "parquet": "this package: .parquet",
}

Result = dict[str, float]


def write_file(path: Path, members: int, *, properties: bool) -> None:
    """Write a file as the service does: every field quoted, one in five anonymous."""
    chance = random.Random(1)
    header = '"amplitude_id","user_id"' + ',"plan","country"' * properties

    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(f"{header}\n")

        for number in range(members):
            user = f"user{chance.randrange(10**9)}@example.com" if number % 5 else ""
            rest = f',"{chance.choice(["free", "plus"])}","Germany"' * properties
            file.write(f'"{chance.randrange(10**11, 10**12)}","{user}"{rest}\n')


def run(way: str, path: Path) -> Result:
    """Run one way once, in a process of its own."""
    script = Path(__file__).with_name("ways.py")
    done = subprocess.run(
        [sys.executable, script, way, path], capture_output=True, check=True, text=True
    )
    found: dict[str, float | list[float]] = json.loads(done.stdout)
    stall = found.pop("stall", [])

    if isinstance(stall, list):
        found |= dict(zip(("stall_p50", "stall_p99", "stall_max"), stall, strict=False))

    return {
        name: float(value)
        for name, value in found.items()
        if not isinstance(value, list)
    }


def measure(path: Path, members: int, rounds: int) -> dict[str, Result]:
    """Let all ways that are installed take turns; hand back medians."""
    ways = [way for way in WAYS if _is_installed(way)]
    results: dict[str, list[Result]] = defaultdict(list)

    for number in range(rounds + 1):
        for way in ways:
            result = run(way, path)
            if result.pop("rows") != members:
                sys.exit(f"{way} did not find {members} members")
            # The first round only warms the caches.
            if number:
                results[way].append(result)

    return {
        way: {name: statistics.median(one[name] for one in all_) for name in all_[0]}
        for way, all_ in results.items()
    }


def print_table(title: str, table: dict[str, Result]) -> None:
    """Print one table a person can read."""
    bare = table["members_bare"]["seconds"]
    print(f"\n{title}\n")
    print("| way | s | x bare | CPU s | +RSS MiB | stall p50/p99/max ms |")
    print("|---|---|---|---|---|---|")

    for way, row in table.items():
        stalls = [f"{value:.1f}" for name, value in row.items() if "stall" in name]
        print(
            f"| {WAYS[way]} | {row['seconds']:.2f} | {bare / row['seconds']:.2f} "
            f"| {row['cpu']:.2f} | {row['rss']:.0f} | {'/'.join(stalls)} |"
        )


def _is_installed(way: str) -> bool:
    peers = {"polars", "pandas", "duckdb", "pyarrow"} & set(way.split("_"))
    needed = peers | {"pyarrow"} if "members" not in way else set()
    missing = sorted(name for name in needed if find_spec(name) is None)

    if missing:
        print(f"left out: {WAYS[way]} ({', '.join(missing)} is not installed)")

    return not missing


def main() -> None:
    """Measure files with and without properties, print both, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tables = {}

    with tempfile.TemporaryDirectory(dir=_memory_disk()) as folder:
        for title, properties in (("ids only", False), ("two properties", True)):
            path = Path(folder) / "members.csv"
            write_file(path, options.members, properties=properties)
            tables[title] = measure(path, options.members, options.rounds)
            print_table(f"{options.members:,} members, {title}", tables[title])

    if options.json:
        options.json.write_text(json.dumps(tables, indent=2) + "\n")


def _memory_disk() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


if __name__ == "__main__":
    main()
