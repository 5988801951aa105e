"""
Prefect with a server of its own, and a process for each run of the recipe's flow.

Run as a module this is such a process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amplitude_cohorts_async.jobs import JobRecord

from ..ports import LOOPBACK, await_port, free_ports
from ..processes import run_in_group
from .dying import Moment, arm
from .engine import Workspace
from .recipes import recipe


@contextmanager
def running_server(folder: Path) -> Iterator[dict[str, str]]:
    """Run one meanwhile; yields the variables that point a flow to it."""
    (port,) = free_ports(1)
    environment = {
        "HOME": str(folder),
        "PREFECT_HOME": str(folder),
        "PREFECT_API_URL": f"http://{LOOPBACK}:{port}/api",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # A step must not get the result of an earlier one, where some keep results.
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
    }
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "prefect", "server", "start", "--no-ui"),
            *("--no-services", f"--host={LOOPBACK}", f"--port={port}"),
        ],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    try:
        if not await_port(port, alive=lambda: server.poll() is None, timeout=240.0):
            raise RuntimeError(f"Prefect's server did not start on port {port}")
        yield environment
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


async def run_flow(
    workspace: Workspace, record: JobRecord, *, dies: Moment | None = None
) -> int:
    """Run the flow; return the exit code of its process."""
    asked = (record.cohort_id, str(record.to), str(record.occurrence))
    return await run_in_group(
        *(sys.executable, "-m", __name__, *asked), env=workspace.of_worker(dies)
    )


if __name__ == "__main__":
    arm()
    asyncio.run(recipe("prefect_flow").export(*sys.argv[1:]))
