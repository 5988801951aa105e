"""DBOS on Postgres: a fleet whose workers have ids of their own."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Self

from dbos import DBOSClient, EnqueueOptions, run_dbos_database_migrations

from amplitude_cohorts_async.contrib.dbos import QUEUE, VERSION, WORKFLOW
from amplitude_cohorts_async.jobs import JobRecord

from .dbos_worker import work
from .dying import Moment
from .engine import DONE, Engine, Workspace
from .forking import ForkedWorkers

_OVER = {"SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"}


class DbosEngine(Engine):
    """Workers, and a client that asks for exports."""

    restarts = True

    def __init__(self, workspace: Workspace, url: str) -> None:
        super().__init__(workspace)
        self._url = url
        self._workers = ForkedWorkers(workspace, work)
        self._numbers = count(1)
        self._client: DBOSClient | None = None

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(run_dbos_database_migrations, self._url)
        self._client = DBOSClient(system_database_url=self._url)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._workers.end()
        if self._client is not None:
            await asyncio.to_thread(self._client.destroy)

    async def start_worker(
        self, dies: Moment | None = None, *, release: str = "1"
    ) -> None:
        """Start one with an id that no other had, of a release of its code."""
        executor_id = f"worker-{next(self._numbers)}"
        self._workers.start(self._url, executor_id, release, dies=dies)

    async def submit(self, record: JobRecord, *, attempt: int = 1) -> None:
        """Put its workflow into the queue; one that is there is the same."""
        options: EnqueueOptions = {
            "queue_name": QUEUE,
            "workflow_name": WORKFLOW,
            "workflow_id": _id(record, attempt),
            "app_version": VERSION,
        }
        await asyncio.to_thread(self._enqueue, options, record.to_json())

    async def ended(self, record: JobRecord, *, attempt: int = 1) -> str:
        """Wait for the end of its workflow."""
        while True:
            status = await asyncio.to_thread(self._status, _id(record, attempt))
            if status is not None:
                return status
            await asyncio.sleep(0.1)

    async def restart(self) -> None:
        """Kill the workers, and start the one with an id that is known."""
        self._workers.end()
        self._workers.start(self._url, "worker-1", "1")

    async def is_known(self, record: JobRecord) -> bool:
        """Whether there is a workflow for a record."""
        assert self._client is not None
        known = await asyncio.to_thread(
            self._client.list_workflows, workflow_ids=[record.key]
        )
        return bool(known)

    async def steps(self, record: JobRecord) -> list[str]:
        """Return the names of the steps that were recorded, without the sleeps."""
        assert self._client is not None
        steps = await asyncio.to_thread(self._client.list_workflow_steps, record.key)
        names = [step["function_name"] for step in steps]

        return [name for name in names if name != "DBOS.sleep"]

    def _enqueue(self, options: EnqueueOptions, text: str) -> None:
        assert self._client is not None
        self._client.enqueue(options, text)

    def _status(self, workflow_id: str) -> str | None:
        assert self._client is not None
        (found,) = self._client.list_workflows(workflow_ids=[workflow_id])
        if found.status not in _OVER:
            return None
        if found.error is not None:
            return type(found.error).__name__

        return DONE if found.status == "SUCCESS" else found.status


def _id(record: JobRecord, attempt: int) -> str:
    return record.key if attempt == 1 else f"{record.key}-{attempt}"
