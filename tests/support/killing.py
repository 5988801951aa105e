"""Downloads in processes of their own, to be killed or stopped in the middle."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from amplitude_cohorts_async._io.sinks.part_record import joined, read_record

from .canary import API_KEY, SECRET_KEY
from .exporting import REQUEST, until

# Recorded twenty times as often as outside of tests, so that they are soon over.
_CODE = """
import asyncio, sys
from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async._io.download import to_file
from amplitude_cohorts_async.limits import UNLIMITED
from amplitude_cohorts_async.policies import Downloading

to_file._PAUSES = (0.01,)

async def main(key, secret, url, request_id, target, connections):
    async with CohortsClient(
        key, secret, base_url=url, limits=UNLIMITED,
        downloading=Downloading(max_connections=int(connections)),
    ) as client:
        await client.resume_export(request_id).download(target)

asyncio.run(main(*sys.argv[1:]))
"""


@asynccontextmanager
async def downloading(
    url: str, target: Path, *, request: str = REQUEST, connections: int = 1
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the download of a job in a process, which is killed in the end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _CODE, API_KEY, SECRET_KEY),
        *(url, request, str(target), str(connections)),
    )

    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def kill_in_the_middle(
    url: str,
    target: Path,
    *,
    at: int,
    holes: int = 0,
    request: str = REQUEST,
    connections: int = 1,
) -> list[tuple[int, int]]:
    """Kill a download once so many bytes are recorded; return the ranges of them."""

    def is_there() -> bool:
        found = recorded(target.parent)
        return at <= sum(end - start for start, end in found) and holes < len(found)

    process = downloading(url, target, request=request, connections=connections)
    async with process as running:
        await until(is_there)
        running.kill()
        await running.wait()

    return recorded(target.parent)


def recorded(folder: Path) -> list[tuple[int, int]]:
    """Tell the ranges in the record of the only part in a folder; none without one."""
    for path in folder.glob(".*.part.ranges"):
        if record := read_record(path.read_bytes()):
            return joined(record.spans, limit=1 << 62)

    return []
