"""
The dags of the tests, one for each: a task that exports a cohort to ``RUN.csv``.

`TRIED` is for the command that tries a dag, `QUICK` and `SLOW` for the scheduler. The
task of `KILLED` is killed in its first try, when it has spent an export.
"""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

from airflow.sdk import DAG

from amplitude_cohorts_async.contrib.airflow import CohortExportOperator
from support.engines.airflow_fleet import KILLED, QUICK, SLOW, TRIED
from support.engines.service import COHORT, SLOW_COHORT

HOME = os.environ["AIRFLOW_HOME"]


class DyingOperator(CohortExportOperator):
    """The first of its processes that is to wait is killed instead."""

    def wait(
        self,
        seconds: float,
        *,
        token: str | None = None,
        timeout: float | None = None,
    ) -> NoReturn:
        """Die, or defer."""
        mark = Path(HOME, "died")
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

        super().wait(seconds, token=token, timeout=timeout)


def export(
    dag_id: str,
    cohort_id: str = COHORT,
    operator: type[CohortExportOperator] = CohortExportOperator,
) -> DAG:
    """Return the dag of an export."""
    began = datetime(2026, 1, 1, tzinfo=UTC)

    with DAG(dag_id, schedule=None, start_date=began) as dag:
        operator(
            task_id="export",
            cohort_id=cohort_id,
            path=f"{HOME}/{{{{ run_id }}}}.csv",
            # A busy machine may cost one more: Airflow takes a task for lost.
            retries=3,
            retry_delay=timedelta(0),
        )

    return dag


tried, quick = export(TRIED), export(QUICK)
slow, killed = export(SLOW, SLOW_COHORT), export(KILLED, operator=DyingOperator)
