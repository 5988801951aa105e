"""
Airflow: a task, each of whose tries is a process, with the triggers in it.

What its own processes do with a task is tried in tests/engines/test_airflow_processes.
"""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path

from . import airflow_home  # isort: skip  # noqa: F401 - before Airflow

import airflow.sdk.execution_time.task_runner
from airflow.sdk.exceptions import AirflowException

from amplitude_cohorts_async.contrib.airflow import CohortExportOperator
from amplitude_cohorts_async.errors import CohortsError
from amplitude_cohorts_async.jobs import JobRecord

from .airflow_task import Task, TaskState
from .engine import DONE, Workspace
from .queueing import ProcessEngine, Work

STATE = "AIRFLOW_TASK_STATE"

# A task loads it: here it comes before the fork.
PRELOADED = (airflow.sdk.execution_time.task_runner,)


class AirflowEngine(ProcessEngine):
    """A process for each try of one task."""

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(workspace)
        connection = {
            "conn_type": "amplitude_cohorts",
            "login": workspace.environment["AMPLITUDE_API_KEY"],
            "password": workspace.environment["AMPLITUDE_SECRET_KEY"],
            "host": workspace.environment["AMPLITUDE_BASE_URL"],
        }
        workspace.environment.update(
            {
                "AIRFLOW_CONN_AMPLITUDE_COHORTS_DEFAULT": json.dumps(connection),
                STATE: str(workspace.folder / "state.json"),
            }
        )

    @property
    def work(self) -> Work:
        """One try."""
        return run


class KeptState(TaskState):
    """What Airflow keeps of a task in its database: here in a file."""

    def __init__(self, path: Path) -> None:
        super().__init__(json.loads(path.read_text()) if path.exists() else {})
        self._path = path

    def set(self, key: str, value: object, *, retention: timedelta) -> None:
        """Keep a value, as a whole."""
        super().set(key, value, retention=retention)
        new = self._path.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps(self))
        new.replace(self._path)


def run(text: str) -> str:
    """Run one try to its end; return how that was."""
    record = JobRecord.from_json(text)
    operator = CohortExportOperator(
        task_id="export",
        cohort_id=record.cohort_id,
        path=str(record.to),
        occurrence=record.occurrence,
    )

    try:
        Task(state=KeptState(Path(os.environ[STATE]))).run(operator)
    except (AirflowException, CohortsError) as error:
        return _name(error)

    return DONE


def _name(error: BaseException) -> str:
    while error.__cause__ is not None and not isinstance(error, CohortsError):
        error = error.__cause__

    return type(error).__name__
