"""
Airflow's commands, each in a process that is forked from one that has imported them.

Run as a module this is that process. It reads a line of JSON for each command: the words
of one that it waits for, or of one that goes on, and it kills these when its input ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from .dying import arm

_IMPORTED = (
    "airflow.__main__",
    "airflow.api_fastapi.main_of_none",
)


def fork(words: list[str], log: Path) -> int:
    """Start a command in a process group of its own; return its id."""
    if child := os.fork():
        return child

    try:
        os.setsid()
        null, out = (
            os.open(os.devnull, os.O_RDONLY),
            os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        )
        for number, ours in enumerate((null, out, out)):
            os.dup2(ours, number)
        sys.argv = ["airflow", *words]
        from airflow.__main__ import main

        main()
    except SystemExit as error:
        os._exit(int(bool(error.code)))
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def serve(log: Path) -> None:
    running = []
    for line in sys.stdin:
        order = json.loads(line)
        child = fork(order["words"], log)
        if order["waits"]:
            _, status = os.waitpid(child, 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            running.append(child)
            answer = child
        print(json.dumps(answer), flush=True)
    for each in running:
        with suppress(ProcessLookupError):
            os.killpg(each, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(each, 0)
    import resource

    print(
        resource.getrusage(resource.RUSAGE_CHILDREN),
        resource.getrusage(resource.RUSAGE_SELF),
        file=sys.stderr,
    )


if __name__ == "__main__":
    arm()
    for name in [
        "airflow.__main__",
        "airflow.cli.commands.scheduler_command",
        "airflow.cli.commands.triggerer_command",
        "airflow.cli.commands.api_server_command",
        "airflow.executors.local_executor",
        "airflow.api_fastapi.execution_api.app",
        "airflow.sdk.execution_time.task_runner",
        "airflow.dag_processing.bundles.base",
        "airflow.dag_processing.dagbag",
    ]:
        import_module(name)
    from amplitude_cohorts_async.contrib import airflow

    [getattr(airflow, each) for each in airflow.__all__]
    serve(Path(sys.argv[1]))
