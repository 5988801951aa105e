"""
Dagster: a job of one asset, each of whose attempts is a process.

The first attempt is a run, and those that follow are its re-executions: Dagster starts
none of them by itself.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import dagster._core.storage.local_compute_log_manager
import dagster._core.storage.sqlite_storage
from dagster import (
    DagsterInstance,
    Definitions,
    JobDefinition,
    JobExecutionResult,
    ReexecutionOptions,
    define_asset_job,
    execute_job,
    in_process_executor,
    reconstructable,
)

from amplitude_cohorts_async.contrib.dagster import CohortsResource, cohort_asset
from amplitude_cohorts_async.jobs import JobRecord

from .engine import DONE, Workspace
from .queueing import ProcessEngine, Work
from .service import COHORT

TARGET = "DAGSTER_RUN_TARGET"

# The folder of an instance loads these: here they come before the fork.
PRELOADED = (
    dagster._core.storage.local_compute_log_manager,
    dagster._core.storage.sqlite_storage,
)


class DagsterEngine(ProcessEngine):
    """A process for each attempt at a run."""

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(workspace)
        home = workspace.folder / "dagster"
        home.mkdir()
        (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
        workspace.environment.update(DAGSTER_HOME=str(home), HOME=str(home))
        # Two processes that make its tables at once may both fail.
        with DagsterInstance.from_config(str(home)) as instance:
            instance.get_runs(limit=1)

    @property
    def work(self) -> Work:
        """One attempt."""
        return run


def export_job() -> JobDefinition:
    """Return the job."""
    asset = cohort_asset(COHORT, os.environ[TARGET], name="members")
    job = define_asset_job("export", executor_def=in_process_executor)

    return Definitions(
        assets=[asset], resources={"cohorts": CohortsResource()}, jobs=[job]
    ).resolve_job_def("export")


def run(text: str) -> str:
    """Run the job, or execute its run again; return how that ended."""
    os.environ[TARGET] = str(JobRecord.from_json(text).to)

    with (
        DagsterInstance.get() as instance,
        execute_job(
            reconstructable(export_job),
            instance=instance,
            reexecution_options=_first_run(instance),
        ) as result,
    ):
        return DONE if result.success else _error_of(result)


def _first_run(instance: DagsterInstance) -> ReexecutionOptions | None:
    """Wait for the run that the first attempt makes; None for that attempt."""
    with suppress(FileExistsError):
        Path(os.environ["DAGSTER_HOME"], "first").touch(exist_ok=False)
        return None

    while not (runs := instance.get_runs()):
        time.sleep(0.05)

    return ReexecutionOptions(parent_run_id=runs[-1].run_id)


def _error_of(result: JobExecutionResult) -> str:
    (failed,) = result.get_step_failure_events()
    error = failed.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause

    return str(error and error.cls_name)
