"""
Compare calls for documents with bare aiohttp, and imports with aiohttp's own.

    python benchmarks/documents/run.py [--cohorts 5000] [--rounds 5] [--json FILE]

All ways take turns against one server over TLS; the server has one core and the
ways another, and the tables have medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "tests/support"))

import import_cost  # noqa: E402  where the gate has it from

WAYS = {
    "enter": "entering the first client",
    "usage_bare": "usage: aiohttp and json.loads",
    "usage": "usage: get_usage()",
    "list_bare": "list: aiohttp and json.loads",
    "list_at_once": "list: the same, then all objects at once",
    "list": "list: list_cohorts()",
}
STALLS = ("p50", "p99", "max")
TIMES = {"usage": 300, "list": 7}
Table = dict[str, dict[str, float]]


@contextmanager
def server(cohorts: int, authority: Path) -> Iterator[tuple[str, int]]:
    """Run the server on a core of its own; yield its origin and the list's bytes."""
    command = [sys.executable, HERE / "server.py", str(cohorts), authority]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    _pin(process.pid, 0)

    try:
        assert process.stdout is not None
        port, size = process.stdout.readline().split()
        yield f"https://localhost:{port}", int(size)
    finally:
        process.terminate()
        process.wait()


def run(origin: str, authority: Path, times: int, ways: list[str]) -> Table:
    """Let some ways take turns in a fresh process."""
    command = [sys.executable, HERE / "ways.py", origin, str(times), *ways]
    environment = os.environ | {"SSL_CERT_FILE": str(authority)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment
    )
    _pin(process.pid, 1)
    said, _ = process.communicate()

    if process.returncode:
        sys.exit(f"{ways} failed")

    return dict(json.loads(said))


def measure(origin: str, authority: Path, rounds: int) -> Table:
    """Take the medians of some rounds, the ratios of each round among them."""
    results: dict[str, list[dict[str, float]]] = defaultdict(list)

    for _ in range(rounds):
        for document, times in TIMES.items():
            names = [name for name in WAYS if name.startswith(document)]
            found = run(origin, authority, times, names)
            bare = found[f"{document}_bare"]["seconds"]
            for name, result in found.items():
                results[name].append(result | {"ratio": result["seconds"] / bare})

    return {
        way: {
            key: statistics.median(each[key] for each in results[way])
            for key in results[way][0]
        }
        for way in WAYS
    }


def print_table(table: Table) -> None:
    """Print the table of calls."""
    print("| call | ms | x bare | CPU ms | stall p50 / p99 / max ms |")
    print("|---|---|---|---|---|")

    for way, row in table.items():
        ratio = "" if way == "enter" else f"{row['ratio']:.2f}"
        stalls = " / ".join(f"{row[f'stall_{name}']:.1f}" for name in STALLS)
        print(
            f"| {WAYS[way]} | {row['seconds'] * 1e3:.2f} | {ratio} "
            f"| {row['cpu'] * 1e3:.2f} | {stalls} |"
        )


def print_imports() -> dict[str, float]:
    """Measure imports as the gate does, and print them."""
    ratios = {code: import_cost.ratio_of(code) for code in import_cost.OURS}
    print("\n| import | x aiohttp |\n|---|---|")

    for code, ratio in ratios.items():
        print(f"| `{code}` | {ratio:.2f} |")

    return ratios


def main() -> None:
    """Measure both, print two tables, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohorts", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        authority = Path(folder) / "authority.pem"
        with server(options.cohorts, authority) as (origin, size):
            table = measure(origin, authority, options.rounds)

    print(f"\n{options.cohorts:,} cohorts, {size / 1e6:.1f} MB\n")
    print_table(table)
    imports = print_imports()

    if options.json:
        text = json.dumps({"calls": table, "imports": imports}, indent=2)
        options.json.write_text(f"{text}\n")


def _pin(process: int, core: int) -> None:
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []

    if len(cores) > 1:
        os.sched_setaffinity(process, {cores[core]})


if __name__ == "__main__":
    main()
