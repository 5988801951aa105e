"""The command watch: wait for a running export, and save nothing."""

from __future__ import annotations

import time

import attrs

from .. import CohortsClient
from ..errors import ExportTimeoutError
from . import render
from .common import Connection
from .file_options import JOB_TIMEOUT, Timeout
from .records import delivered_to
from .resume_hints import announce, command_line, resumable_id, resume_hints
from .resuming import RequestedJob, last_open, named

__all__ = ("watch",)


@attrs.frozen(kw_only=True)
class Watched:
    """
    An export whose file is ready.

    Attributes:
        cohort_id: None if only its request id is known.
        seconds: How long it was waited for.
        delivered_to: Where its file is already.
    """

    request_id: str
    cohort_id: str | None
    seconds: float
    delivered_to: str | None


def watch(
    connection: Connection,
    job: RequestedJob = None,
    *,
    timeout: Timeout = JOB_TIMEOUT,
) -> None:
    """
    Wait until a running export is ready; saves nothing and spends no export.

    Exit code 0 says that its file is there, 7 that it is still running.
    """

    async def work(client: CohortsClient) -> Watched:
        """Find the export, and wait for it."""
        found = await (last_open(client) if job is None else named(job)(client))
        resumed = client.resume_export(found.token)
        started = time.monotonic()

        if connection.announces:
            of = "" if resumed.cohort_id is None else f" of cohort {resumed.cohort_id}"
            announce(f"watching export {resumed.request_id}{of}")

        await resumed.wait(timeout=timeout)

        return Watched(
            request_id=resumed.request_id,
            cohort_id=resumed.cohort_id,
            seconds=round(time.monotonic() - started, 1),
            delivered_to=None if found.record is None else delivered_to(found.record),
        )

    with resume_hints(
        lambda error: (
            [command_line("watch", request_id, *connection.arguments)]
            if isinstance(error, ExportTimeoutError)
            and (request_id := resumable_id(error))
            else []
        )
    ):
        found = connection.run(work)

    connection.print("watch", found, lambda _: _show(connection, found))


def _show(connection: Connection, found: Watched) -> None:
    render.table(
        None,
        [
            ["export", found.request_id],
            *([["cohort", found.cohort_id]] if found.cohort_id else []),
            ["state", "ready"],
            *([["delivered to", found.delivered_to]] if found.delivered_to else []),
        ],
    )

    if connection.announces and found.delivered_to is None:
        save = command_line("resume", found.request_id, *connection.arguments)
        announce(f"`{save}` saves its file")
