"""The dags of Airflow's processes: each exports a cohort to a file of its run."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from airflow.sdk import DAG

from amplitude_cohorts_async.contrib.airflow import CohortExportOperator

COHORTS = ("c1", "slow")


def export_of(cohort_id: str) -> DAG:
    """Return the dag of a cohort; it has the cohort's id."""
    with DAG(
        cohort_id, schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)
    ) as dag:
        CohortExportOperator(
            task_id="export",
            cohort_id=cohort_id,
            path=f"{os.environ['AIRFLOW_HOME']}/{{{{ run_id }}}}.csv",
        )

    return dag


dags = [export_of(each) for each in COHORTS]
globals().update({f"dag_{dag.dag_id}": dag for dag in dags})
