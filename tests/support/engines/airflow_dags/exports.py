"""The dags of the tests: each exports one cohort to a file that is named by the run."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from airflow.sdk import DAG

from amplitude_cohorts_async.contrib.airflow import CohortExportOperator
from support.engines.service import COHORT, SLOW_COHORT


def export_of(cohort_id: str) -> DAG:
    """Return the dag of a cohort, which has the cohort's id."""
    began = datetime(2026, 1, 1, tzinfo=UTC)

    with DAG(cohort_id, schedule=None, start_date=began) as dag:
        CohortExportOperator(
            task_id="export",
            cohort_id=cohort_id,
            path=f"{os.environ['AIRFLOW_HOME']}/{{{{ run_id }}}}.csv",
        )

    return dag


quick, slow = export_of(COHORT), export_of(SLOW_COHORT)
