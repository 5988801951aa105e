"""Compare the cost of importing us with that of aiohttp, which we cannot do without."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

ROUNDS = 15
AIM = 1.15
NOISE = 0.15
"""
What a busy machine adds at times: the aim is looked at, and this far from it a
defect is more likely.
"""
THEIRS = "import aiohttp"
OURS = (
    "import amplitude_cohorts_async",
    "from amplitude_cohorts_async import CohortsClient",
)


def seconds(code: str) -> float:
    """Tell what processor time a fresh interpreter takes to run one line."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)

    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def ratio_of(code: str, rounds: int = ROUNDS) -> float:
    """Run both in turn, so that whatever slows one slows the other, and compare."""
    return statistics.median(seconds(code) / seconds(THEIRS) for _ in range(rounds))


def main() -> None:
    """Compare each door; fail if one costs far more than is aimed at."""
    ratios = {code: ratio_of(code) for code in OURS}

    for code, ratio in ratios.items():
        print(f"{ratio:.3f} x {THEIRS!r}: {code}")  # noqa: T201

    print(f"the aim is {AIM}, and {AIM + NOISE} fails")  # noqa: T201
    sys.exit(max(ratios.values()) > AIM + NOISE)


if __name__ == "__main__":
    main()
