"""
Temporal on its test server, as in its recipe.

Run as a module this is a worker.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, ClassVar, Self

from temporalio.client import (
    Client,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
)
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import (
    SandboxedWorkflowRunner,
    SandboxRestrictions,
)

from amplitude_cohorts_async.jobs import JobRecord

from ..requirements import require_program
from .dying import Moment, arm
from .engine import DONE, Engine, Workers, Workspace
from .recipes import recipe

SERVER = "temporal-test-server"


class TemporalEngine(Engine):
    """A server that keeps workflows in memory, and workers."""

    restarts: ClassVar[bool] = True

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(workspace)
        self._workers = Workers(workspace, __name__)
        self._recipe = recipe("temporal_worker")
        self._server: WorkflowEnvironment | None = None
        self._client: Client | None = None

    async def __aenter__(self) -> Self:
        self._server = await WorkflowEnvironment.start_time_skipping(
            test_server_existing_path=str(require_program(SERVER))
        )
        address = self._server.client.service_client.config.target_host
        self.workspace.environment["TEMPORAL_ADDRESS"] = address
        # One that skips no time while it waits.
        self._client = await Client.connect(address)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._workers.end()
        if self._server is not None:
            await self._server.shutdown()

    async def start_worker(self, dies: Moment | None = None) -> None:
        """Start one more worker."""
        await self._workers.start(dies=dies)

    async def submit(self, record: JobRecord) -> None:
        """Start its workflow; one that runs is the same."""
        await self._recipe.start(self._client, record)

    async def ended(self, record: JobRecord) -> str:
        """Wait for the end of its workflow."""
        assert self._client is not None
        handle = self._client.get_workflow_handle(record.key)

        while await _runs(handle):  # noqa: ASYNC110 - a server
            await asyncio.sleep(0.05)
        try:
            await handle.result()
        except WorkflowFailureError as error:
            return _name(error)

        return DONE

    async def restart(self) -> None:
        """Kill the workers, and start one; the server would forget."""
        await self._workers.end()
        await self.start_worker()


async def _runs(handle: WorkflowHandle[Any, None]) -> bool:
    """Whether it runs; who waits for its result for long gets an empty answer."""
    return (await handle.describe()).status is WorkflowExecutionStatus.RUNNING


def _name(error: WorkflowFailureError) -> str:
    assert isinstance(error.cause, ActivityError)
    assert isinstance(error.cause.cause, ApplicationError)

    return str(error.cause.cause.type)


def work() -> None:
    """Work until killed; who was not heard of for two seconds is dead."""
    arm()
    worker = recipe("temporal_worker")
    worker.SILENT = timedelta(seconds=2)
    # Or the workflows would have a module, and a constant, of their own.
    restrictions = SandboxRestrictions.default.with_passthrough_modules(worker.__name__)
    defaults = Worker.__init__.__kwdefaults__
    # The test server leaves to a dead worker what it has put aside for it.
    defaults["max_cached_workflows"] = 0
    defaults["workflow_runner"] = SandboxedWorkflowRunner(restrictions=restrictions)

    asyncio.run(worker.main())


if __name__ == "__main__":
    work()
