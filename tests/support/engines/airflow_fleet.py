"""Airflow's processes, with one home and one database."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import IO

import attrs

from ..ports import LOOPBACK, await_port, free_ports
from ..processes import TESTS, spoken_to
from .service import Service

TRIED, QUICK, SLOW, KILLED = "tried", "quick", "slow", "killed"
"""The dags, one for each test, so that none is cleared or counted with another's."""

_DAGS = Path(__file__).with_name("airflow_dags")
_OVER = {"success", "failed"}


@attrs.define(eq=False)
class Fleet:
    """
    Airflow in a home of its own, whose tables are made.

    Attributes:
        home: Where the files of the dags are, `RUN.csv` each.
        environment: What its processes are given.
    """

    home: Path
    environment: dict[str, str]
    _words: IO[str]
    _answers: IO[str]
    _port: int
    _triggerer: int | None = None
    _runs: Iterator[int] = attrs.field(factory=lambda: count(1))

    def run(self, *words: str) -> None:
        """Run a command of Airflow's to its end."""
        assert 0 == self._asked(words, waits=True), self.said

    def start(self) -> None:
        """Start all that runs a task: server, scheduler with workers, triggerer."""
        address = ("--host", LOOPBACK, "--port", str(self._port), "--workers", "1")
        self._asked(("api-server", "--apps", "execution", *address), waits=False)
        self._asked(("scheduler", "--skip-serve-logs"), waits=False)
        self.start_triggerer()
        assert await_port(self._port, alive=lambda: True, timeout=120.0), self.said

    def start_triggerer(self) -> None:
        """Start one."""
        words = ("triggerer", "--skip-serve-logs")
        self._triggerer = self._asked(words, waits=False)

    def kill_triggerer(self) -> None:
        """Kill it, and what it started."""
        assert self._triggerer is not None
        os.killpg(self._triggerer, signal.SIGKILL)

    def trigger(self, dag_id: str) -> str:
        """Ask for a run of a dag; return its id."""
        run_id = f"run{next(self._runs)}"
        self.run("dags", "trigger", dag_id, "--run-id", run_id)

        return run_id

    async def deferred(self, run_id: str) -> None:
        """Wait until the task of a run waits in the triggerer."""
        query = "SELECT state FROM task_instance WHERE run_id = ?"
        while self._read(query, run_id) != "deferred":  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    def clear(self, dag_id: str) -> None:
        """Clear the tasks of all runs of a dag, as a person does."""
        self.run("tasks", "clear", dag_id, "--yes")

    def tries(self, run_id: str) -> int:
        """Return how often the task of a run was tried."""
        query = "SELECT try_number FROM task_instance WHERE run_id = ?"
        tries = self._read(query, run_id)
        assert isinstance(tries, int)

        return tries

    async def ended(self, run_id: str) -> str:
        """Wait until a run has ended; return how."""
        query = "SELECT state FROM dag_run WHERE run_id = ?"
        while (state := self._read(query, run_id)) not in _OVER:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

        return str(state)

    @property
    def said(self) -> str:
        """The end of what its processes said."""
        return (self.home / "said.log").read_text()[-5_000:]

    def _asked(self, words: tuple[str, ...], *, waits: bool) -> int:
        self._words.write(f"{json.dumps([waits, words])}\n")
        self._words.flush()
        while not (answer := self._answers.readline().strip()).lstrip("-").isdecimal():
            # Some of its modules write when they are imported.
            assert answer, "the process of Airflow's commands has ended"

        return int(answer)

    def _read(self, query: str, run_id: str) -> object:
        uri = f"file:{self.home}/airflow.db?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as tables:
            row = tables.execute(query, (run_id,)).fetchone()

        return None if row is None else row[0]


@contextmanager
def airflow(home: Path, service: Service) -> Iterator[Fleet]:
    """Make the tables, and end all processes afterwards."""
    (port,) = free_ports(1)
    environment = _environment(home, service, port)
    commands = ("-m", "support.engines.airflow_commands", home / "said.log")

    with spoken_to(*commands, env=environment) as (words, answers):
        fleet = Fleet(home, environment, words, answers, port)
        fleet.run("db", "migrate")
        fleet.run("dags", "reserialize")
        yield fleet


def _environment(home: Path, service: Service, port: int) -> dict[str, str]:
    keys = service.environment
    connection = {
        "conn_type": "amplitude_cohorts",
        "login": keys["AMPLITUDE_API_KEY"],
        "password": keys["AMPLITUDE_SECRET_KEY"],
        "host": keys["AMPLITUDE_BASE_URL"],
        "extra": json.dumps({"limiter_url": f"sqlite:///{home}/limits.db"}),
    }
    settings = {
        "API_AUTH__JWT_SECRET": "only for a test, and only on the loopback address",
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "CORE__DAGS_FOLDER": str(_DAGS),
        "CORE__EXECUTION_API_SERVER_URL": f"http://{LOOPBACK}:{port}/execution/",
        "CORE__EXECUTOR": "LocalExecutor",
        # Made for this: the words of triggers are stored encrypted.
        "CORE__FERNET_KEY": "cf4xkMQxGGE6JGrb1wqMhqM0OP7qAvKhmxlVTOnfkLg=",
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__PARALLELISM": "2",
        "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
        # What a killed one had is another's after so many seconds.
        "TRIGGERER__JOB_HEARTBEAT_SEC": "1",
        "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "3",
        "USAGE_DATA_COLLECTION__ENABLED": "False",
        "WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    }

    return {
        **{f"AIRFLOW__{name}": value for name, value in settings.items()},
        "AIRFLOW_CONN_AMPLITUDE_COHORTS_DEFAULT": json.dumps(connection),
        "AIRFLOW_HOME": str(home),
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{TESTS}:{TESTS.parent}",
    }
