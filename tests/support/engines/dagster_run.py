"""
A process that runs the job of one asset, or executes its only run again.

Run as a module, it ends with 0 if the asset was materialized, and with 1 otherwise.
"""

from __future__ import annotations

import os
import sys

from dagster import (
    DagsterInstance,
    Definitions,
    JobDefinition,
    ReexecutionOptions,
    define_asset_job,
    execute_job,
    in_process_executor,
    reconstructable,
)

from amplitude_cohorts_async.contrib.dagster import CohortsResource, cohort_asset

from .dying import arm
from .service import COHORT

TARGET = "DAGSTER_RUN_TARGET"


def export_job() -> JobDefinition:
    """Return the job."""
    asset = cohort_asset(COHORT, os.environ[TARGET], name="members")
    job = define_asset_job("export", executor_def=in_process_executor)

    return Definitions(
        assets=[asset], resources={"cohorts": CohortsResource()}, jobs=[job]
    ).resolve_job_def("export")


def run() -> bool:
    """Run it; the second time in a place of Dagster's, as a re-execution."""
    arm()

    with DagsterInstance.get() as instance:
        before = [each.run_id for each in instance.get_runs()]
        again = ReexecutionOptions(parent_run_id=before[0]) if before else None
        done = execute_job(
            reconstructable(export_job), instance=instance, reexecution_options=again
        )
        return done.success


if __name__ == "__main__":
    from support.engines import dagster_run  # noqa: PLW0406 - Dagster imports it

    sys.exit(not dagster_run.run())
