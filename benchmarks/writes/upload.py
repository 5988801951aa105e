"""
Upload two million ids to the emulator, ours and a plain script, side by side.

    python benchmarks/writes/upload.py [--ids 2000000] [--rounds 3]

The emulator is a process of its own, each upload another; the ways take turns.
One table: ids a second, how late a 1 ms ticker in the same loop was, peak
memory above the moment before the upload.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import aiohttp

from amplitude_cohorts_async import CohortsClient, read_ids
from amplitude_cohorts_async.limits import UNLIMITED
from amplitude_cohorts_async.models import IdType

KEYS = ("demo-api-key", "demo-secret-key")
APP, OWNER = 153957, "datamonster@amplitude.com"
BATCH = 100_000


def ids_of(count: int) -> Iterator[str]:
    """Ids of the length of a UUID, as many products have them."""
    return (f"{number:08x}-3f1c-4c5e-9a35-7d1f0c2b9e44" for number in range(count))


async def plain(base_url: str, ids: list[str]) -> None:
    """What one writes in ten minutes: no checks, no de-duplication, no retries."""
    fields = {"name": "Plain", "app_id": APP, "id_type": "BY_USER_ID", "owner": OWNER}
    auth = aiohttp.encode_basic_auth(*KEYS)

    async with aiohttp.ClientSession(
        base_url, headers={"Authorization": auth}
    ) as session:
        cohort_id = await _post(
            session,
            "upload",
            {**fields, "published": True, "ids": ids[:BATCH]},
            "cohortId",
        )

        for start in range(BATCH, len(ids), BATCH):
            change = {
                "ids": ids[start : start + BATCH],
                "id_type": "BY_NAME",
                "operation": "ADD",
            }
            await _post(
                session,
                "membership",
                {"cohort_id": cohort_id, "memberships": [change]},
                "cohort_id",
            )


async def _post(
    session: aiohttp.ClientSession, step: str, document: object, key: str
) -> str:
    async with session.post(
        f"/api/3/cohorts/{step}",
        data=json.dumps(document),
        headers={"Content-Type": "application/json"},
    ) as response:
        response.raise_for_status()
        return str((await response.json())[key])


async def ours(base_url: str, ids: object) -> None:
    """The same through the client."""
    async with CohortsClient(
        *KEYS, base_url=base_url, app_id=APP, owner=OWNER, limits=UNLIMITED
    ) as client:
        await client.upload_cohort("Ours", ids, id_type=IdType.USER_ID)  # type: ignore[arg-type]


async def streamed(ids: list[str]) -> AsyncIterator[str]:
    """As from a database cursor: once, and one at a time."""
    for id_ in ids:
        yield id_


def way(name: str, base_url: str, ids: list[str], file: Path) -> Awaitable[None]:
    """Begin one of the uploads."""
    ways: dict[str, Callable[[], Awaitable[None]]] = {
        "plain script": lambda: plain(base_url, ids),
        "ours, a list": lambda: ours(base_url, ids),
        "ours, a file": lambda: ours(base_url, read_ids(file)),
        "ours, a stream": lambda: ours(base_url, streamed(ids)),
    }

    return ways[name]()


WAYS = ("plain script", "ours, a list", "ours, a file", "ours, a stream")


async def measure(name: str, base_url: str, count: int, file: Path) -> dict[str, float]:
    """Run one way next to a ticker."""
    ids = [] if name == "ours, a file" else list(ids_of(count))
    loop = asyncio.get_running_loop()
    late: list[float] = []

    async def tick() -> None:
        while True:
            due = loop.time() + 0.001
            await asyncio.sleep(0.001)
            late.append(1000 * (loop.time() - due))

    # The caller's own list, looked at by the collector, is not what is measured.
    gc.collect()
    before = _peak()
    ticker = asyncio.create_task(tick())
    started = loop.time()
    await way(name, base_url, ids, file)
    seconds = loop.time() - started
    ticker.cancel()
    late.sort()

    return {
        "ids/s": count / seconds,
        "stall p50 ms": late[len(late) // 2],
        "stall p99 ms": late[len(late) * 99 // 100],
        "stall max ms": late[-1],
        "+peak MiB": _peak() - before,
    }


def _peak() -> float:
    # `ru_maxrss` would include the parent's from before exec.
    status = Path("/proc/self/status").read_text()

    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@contextmanager
def emulator() -> Iterator[str]:
    """The service, as a process of its own."""
    command = [sys.executable, "-m", "amplitude_cohorts_async.testing", "--no-limits"]

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            yield json.loads(line)["base_url"]
        finally:
            process.terminate()


def run(name: str, count: int, file: Path) -> dict[str, float]:
    """Run one way in a process of its own, against a fresh emulator."""
    with emulator() as base_url:
        command = [sys.executable, __file__, "--ids", str(count), "--file", str(file)]
        output = subprocess.run(
            [*command, "--way", name, "--base-url", base_url],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout

    return dict(json.loads(output))


def compare(count: int, rounds: int) -> None:
    """Let the ways take turns, and print the medians."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "ids.txt")
        file.write_text("".join(f"{id_}\n" for id_ in ids_of(count)))

        for number in range(rounds):
            for name in WAYS:
                print(f"round {number + 1}: {name}", file=sys.stderr)
                results[name].append(run(name, count, file))

    columns = list(results[WAYS[0]][0])
    print(f"| {count:,} ids | {' | '.join(columns)} |")
    print(f"|---|{'---:|' * len(columns)}")

    for name, runs in results.items():
        cells = [median(each[column] for each in runs) for column in columns]
        print(f"| {name} | {' | '.join(f'{cell:,.1f}' for cell in cells)} |")


def main() -> None:
    """Compare, or be one of the compared."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ids", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--base-url")
    parser.add_argument("--file", type=Path)
    options = parser.parse_args()

    if options.way is None:
        compare(options.ids, options.rounds)
    else:
        print(
            json.dumps(
                asyncio.run(
                    measure(options.way, options.base_url, options.ids, options.file)
                )
            )
        )


if __name__ == "__main__":
    main()
