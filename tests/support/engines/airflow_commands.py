"""
Airflow's commands, each in a process that is forked from one that has imported them.

Run as a module this is that process. Each line of its input is a list: whether to wait
for the end, and the words of a command. It answers with how that ended, or with the
number of its process group, and kills all groups when its input ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from .dying import arm

_ALL = (
    "airflow.__main__",
    "airflow.api_fastapi.execution_api.app",
    "airflow.cli.commands.api_server_command",
    "airflow.cli.commands.scheduler_command",
    "airflow.cli.commands.triggerer_command",
    "airflow.dag_processing.dagbag",
    "airflow.executors.local_executor",
    "airflow.sdk.execution_time.task_runner",
    "amplitude_cohorts_async.contrib.airflow.exports",
)


def serve(log: Path) -> None:
    """Start what is asked for; all of it writes to one log."""
    groups: list[int] = []

    for line in sys.stdin:
        waits, words = json.loads(line)
        group = _fork(words, log)
        if waits:
            answer = os.waitstatus_to_exitcode(os.waitpid(group, 0)[1])
        else:
            groups.append(group)
            answer = group
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()

    for group in groups:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        os.waitpid(group, 0)


def _fork(words: list[str], log: Path) -> int:
    if group := os.fork():
        return group

    status = 1
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for number, file in enumerate((nothing, said, said)):
            os.dup2(file, number)
        sys.argv = ["airflow", *words]
        import_module("airflow.__main__").main()
        status = 0
    except SystemExit as error:
        status = int(bool(error.code))
    except Exception:  # noqa: BLE001 - it is told in the log
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    arm()
    for name in _ALL:
        import_module(name)
    serve(Path(sys.argv[1]))
