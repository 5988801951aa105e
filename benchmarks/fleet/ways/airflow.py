"""
Airflow: one run of a dag with a mapped task for each export.

Its tables are in SQLite; it has a triggerer, and a scheduler with a local executor of as
many workers as there are. Run with the words of a command it is that command.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.request import urlopen

from airflow.__main__ import main
from airflow.sdk import DAG
from cryptography.fernet import Fernet

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.contrib.airflow import CohortExportOperator

from .common import Place, client, run

_LOOPBACK = "127.0.0.1"
_DAG = "from ways.airflow import dag\n\nexports = dag()  # of airflow\n"
_GRACE = 10.0


def dag() -> DAG:
    """Return the dag."""
    place = Place.here()
    began = datetime(2026, 1, 1, tzinfo=UTC)

    with DAG("exports", schedule=None, start_date=began) as made:
        CohortExportOperator.partial(
            task_id="export", retries=3, retry_delay=timedelta(0)
        ).expand_kwargs(
            [
                {"cohort_id": each, "path": str(place.folder / f"{each}.csv")}
                for each in place.cohorts
            ]
        )

    return made


@contextmanager
def prepare(place: Place) -> Iterator[Callable[[], None]]:
    """Make the tables, and start what runs a task: server, scheduler, triggerer."""
    home = place.folder.parent / "home"
    port = _free_port()
    os.environ.update(_settings(home, port, place.workers))
    (home / "dags").mkdir(parents=True)
    (home / "dags" / "exports.py").write_text(_DAG)

    with ExitStack() as stack:
        for words in (("db", "migrate"), ("dags", "reserialize")):
            subprocess.run(_command(*words), stdout=sys.stderr, check=True)
        address = ("--host", _LOOPBACK, "--port", str(port), "--workers", "1")
        for words in (
            ("api-server", "--apps", "execution", *address),
            ("scheduler", "--skip-serve-logs"),
            ("triggerer", "--skip-serve-logs"),
        ):
            process = subprocess.Popen(_command(*words), stdout=sys.stderr)
            stack.callback(_end, process)
        _await_all(home, port)
        yield lambda: export_all(home, place)


def export_all(home: Path, place: Place) -> None:
    """Ask for the run, and wait until it has ended."""
    run_id = place.occurrence
    words = _command("dags", "trigger", "exports", "--run-id", run_id)
    subprocess.run(words, stdout=sys.stderr, check=True)
    query = "SELECT count(*) FROM dag_run WHERE state IN ('success', 'failed')"
    while not _count(home, query):
        time.sleep(1)


def work(words: list[str]) -> None:
    """Be a command of Airflow's, with a client that is scaled in all it starts."""
    CohortsClient.from_env = staticmethod(client)  # type: ignore[method-assign, assignment]
    sys.argv = ["airflow", *words]
    main()


def _settings(home: Path, port: int, workers: int) -> dict[str, str]:
    """Return what it cannot be without, and else what Airflow sets."""
    settings = {
        "API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "CORE__EXECUTION_API_SERVER_URL": f"http://{_LOOPBACK}:{port}/execution/",
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__FERNET_KEY": Fernet.generate_key().decode(),
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__PARALLELISM": str(workers),
        "USAGE_DATA_COLLECTION__ENABLED": "False",
    }
    # Keys, server and limiter are in the environment already.
    connection = json.dumps({"conn_type": "amplitude_cohorts"})

    return {
        **{f"AIRFLOW__{name}": value for name, value in settings.items()},
        "AIRFLOW_CONN_AMPLITUDE_COHORTS_DEFAULT": connection,
        "AIRFLOW_HOME": str(home),
    }


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", __spec__.name, *words]


def _await_all(home: Path, port: int) -> None:
    """Wait until all three are at work; the server's first answer takes seconds."""
    query = "SELECT count(*) FROM job WHERE state = 'running'"
    while _count(home, query) < 2:
        time.sleep(0.2)
    while True:
        try:
            with urlopen(f"http://{_LOOPBACK}:{port}/execution/health"):
                return
        except OSError:
            time.sleep(0.2)


def _count(home: Path, query: str) -> int:
    with closing(
        sqlite3.connect(f"file:{home}/airflow.db?mode=ro", uri=True)
    ) as tables:
        (number,) = tables.execute(query).fetchone()

    return int(number)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()


def _free_port() -> int:
    with socket.create_server((_LOOPBACK, 0)) as server:
        return int(server.getsockname()[1])


if __name__ == "__main__":
    if sys.argv[1:]:
        work(sys.argv[1:])
    else:
        run(prepare)
