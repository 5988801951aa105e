"""The workflow of Temporal's recipe as it stands, on a server that skips time."""

from __future__ import annotations

from datetime import timedelta

import pytest

from amplitude_cohorts_async.jobs import JobRecord
from support.engines.recipes import recipe
from support.requirements import require, require_program

require("temporalio")

pytestmark = [pytest.mark.recipes, pytest.mark.slow, pytest.mark.services]


async def test_the_workflow_sleeps_until_the_next_step_is_due() -> None:
    """It may be imported anew in Temporal's sandbox, and no worker waits meanwhile."""
    from temporalio import activity  # noqa: PLC0415  optional
    from temporalio.testing import WorkflowEnvironment  # noqa: PLC0415  optional
    from temporalio.worker import Worker  # noqa: PLC0415  optional

    server = require_program("temporal-test-server")
    temporal = recipe("temporal_worker")
    record = JobRecord.new("c1", "/data/c1.csv", occurrence="monday")
    due = [15.0, 585.0, None]
    asked = []

    @activity.defn(name="tick")
    async def tick(text: str) -> object:
        """Tell when the next step is due."""
        asked.append(text)
        return temporal.Step(f"{text}+", due.pop(0))

    async with (
        await WorkflowEnvironment.start_time_skipping(
            test_server_existing_path=str(server)
        ) as environment,
        Worker(
            environment.client,
            task_queue=temporal.QUEUE,
            workflows=[temporal.CohortExport],
            activities=[tick],
        ),
    ):
        handle = await temporal.start(environment.client, record)
        again = await temporal.start(environment.client, record)
        await handle.result()
        workflow = await handle.describe()

    assert [f"{record.to_json()}{more}" for more in ("", "+", "++")] == asked
    assert record.key == handle.id
    assert handle.first_execution_run_id == again.first_execution_run_id
    assert workflow.close_time
    assert timedelta(seconds=600) <= workflow.close_time - workflow.start_time
