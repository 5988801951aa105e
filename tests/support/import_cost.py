"""
Compare the cost of importing us with that of aiohttp, which we cannot do without.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ROUNDS = 15
ALLOWED = 1.15


def seconds(module: str) -> float:
    """
    Time a fresh interpreter that imports one module.
    """
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)

    return time.perf_counter() - started


def main() -> None:
    """
    Import both in turn, so that a busy machine slows both, and compare.
    """
    pairs = [
        (seconds("amplitude_cohorts_async"), seconds("aiohttp")) for _ in range(ROUNDS)
    ]
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    print(f"import: {ratio:.3f} times that of aiohttp, {ALLOWED} are allowed")  # noqa: T201
    sys.exit(ratio > ALLOWED)


if __name__ == "__main__":
    main()
