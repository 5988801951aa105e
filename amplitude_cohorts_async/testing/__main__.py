"""
Run the emulator as a process of its own: ``python -m amplitude_cohorts_async.testing``.

One line of JSON on stdout says where it is, once it is ready.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Thread

from .demo import add_demo_cohorts, queue_mishaps, serve
from .emulator import CohortsEmulator
from .quotas import Quotas

__all__ = ("main",)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM, SIGINT, or the end of stdin if asked for."""
    options = _parser().parse_args(arguments)
    emulator = CohortsEmulator(
        routes=options.routes,
        quotas=Quotas.unlimited() if options.no_limits else None,
        job_seconds=options.job_seconds,
        link_seconds=options.link_seconds,
        compress=None if options.plain else "gzip",
        host=options.host,
        port=options.port,
        store_port=options.store_port,
        cache_dir=options.cache_dir,
    )

    if options.demo:
        add_demo_cohorts(emulator, size=options.size)

    if options.mishaps:
        queue_mishaps(emulator)

    asyncio.run(_run(emulator, until_stdin_closes=options.until_stdin_closes))

    return 0


async def _run(emulator: CohortsEmulator, *, until_stdin_closes: bool) -> None:
    task = asyncio.create_task(serve(emulator, announce=_announce))
    loop = asyncio.get_running_loop()

    for number in (signal.SIGTERM, signal.SIGINT):
        # Windows has no such thing; there Ctrl-C is a KeyboardInterrupt.
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, task.cancel)

    if until_stdin_closes:
        Thread(target=_watch_stdin, args=(loop, task), daemon=True).start()

    with contextlib.suppress(asyncio.CancelledError, KeyboardInterrupt):
        await task


def _watch_stdin(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    # os.read, because a daemon thread must not hold the lock of sys.stdin
    # when the interpreter ends.
    while os.read(sys.stdin.fileno(), 4096):
        pass

    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(task.cancel)


def _announce(emulator: CohortsEmulator) -> None:
    details = {
        "base_url": emulator.base_url,
        "store_url": emulator.store_url,
        "environment": emulator.environment(),
        "cohorts": emulator.cohort_ids,
        "pid": os.getpid(),
    }
    sys.stdout.write(json.dumps(details) + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m amplitude_cohorts_async.testing",
        description="Emulate Amplitude's Behavioral Cohorts API on this machine.",
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=0, help="of the API; any that is free by default")
    add("--store-port", type=int, default=0, help="of the store behind the links")
    add("--routes", choices=("vendor", "openapi"), default="vendor")
    add("--demo", action="store_true", help="add cohorts worth looking at")
    add("--size", type=int, default=2_000_000, help="users in the largest of them")
    add("--mishaps", action="store_true", help="let the first download meet some")
    add("--job-seconds", type=float, default=1.0, help="from request to file")
    add("--link-seconds", type=float, default=60.0, help="life of a link")
    add("--plain", action="store_true", help="keep files without gzip")
    add("--no-limits", action="store_true", help="let any number of requests through")
    add("--cache-dir", type=Path, help="where generated files are kept")
    add("--until-stdin-closes", action="store_true", help="end with the parent")

    return parser


if __name__ == "__main__":
    sys.exit(main())
