"""
Compare the cost of importing us with that of aiohttp, which we cannot do without.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

ROUNDS = 15
ALLOWED = 1.15


def seconds(module: str) -> float:
    """
    Tell what processor time a fresh interpreter takes to import one module.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)

    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """
    Import both in turn, so that whatever slows one slows the other, and compare.
    """
    pairs = [
        (seconds("amplitude_cohorts_async"), seconds("aiohttp")) for _ in range(ROUNDS)
    ]
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    print(f"import: {ratio:.3f} times that of aiohttp, {ALLOWED} are allowed")  # noqa: T201
    sys.exit(ratio > ALLOWED)


if __name__ == "__main__":
    main()
