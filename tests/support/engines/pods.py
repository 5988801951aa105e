"""
The pods of the recipe's CronJob: its shell, its variables, and the names of hosts.

Run as a module this is the command, on the host that HOSTNAME names.
"""

from __future__ import annotations

import os
import shlex
import socket
import sys
from pathlib import Path
from typing import Any

import attrs
import yaml

from amplitude_cohorts_async.cli import main
from amplitude_cohorts_async.jobs import JobStore

from ..processes import run_in_group
from .dying import Moment, arm
from .engine import Workspace
from .recipes import FOLDER
from .service import COHORT

JOB_NAME = "metadata.labels['batch.kubernetes.io/job-name']"


@attrs.frozen
class CronJob:
    """The CronJob; its volume is a folder."""

    workspace: Workspace
    volume: Path
    hostname: str | None
    _container: dict[str, Any]

    @classmethod
    def of(cls, workspace: Workspace) -> CronJob:
        """Read it."""
        document = yaml.safe_load((FOLDER / "cronjob.yaml").read_text())
        pod = document["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        (mount,) = container["volumeMounts"]
        assert container["workingDir"] == mount["mountPath"]
        _install_command(workspace.folder / "bin")

        return cls(workspace, workspace.folder / "files", pod["hostname"], container)

    def with_names(self) -> CronJob:
        """Return one whose pods have the names of their hosts from Kubernetes."""
        return attrs.evolve(self, hostname=None)

    async def run(self, job: str, pod: str, *, dies: Moment | None = None) -> int:
        """Run a pod of a job; return its exit code, a negative one if it was killed."""
        words = [*self._container["command"], *self._container["args"]]
        return await self._run(words, job, pod, dies)

    async def run_jobs(self, job: str, pod: str) -> int:
        """Run one that does no more than `jobs run`."""
        return await self._run(["amplitude-cohorts", "jobs", "run"], job, pod, None)

    async def _run(
        self, words: list[str], job: str, pod: str, dies: Moment | None
    ) -> int:
        values = {
            **{each["name"]: _value(each, job) for each in self._container["env"]},
            "COHORT": COHORT,
            "HOSTNAME": self.hostname or pod,
            "PATH": f"{self.workspace.folder / 'bin'}:{os.defpath}",
        }
        environment = {**self.workspace.of_worker(dies), **values}
        return await run_in_group(*words, env=environment, cwd=self.volume)


def _value(variable: dict[str, Any], job: str) -> str:
    if "value" in variable:
        return str(variable["value"])

    assert variable["valueFrom"]["fieldRef"]["fieldPath"] == JOB_NAME
    return job


def _install_command(folder: Path) -> None:
    folder.mkdir()
    command = folder / "amplitude-cohorts"
    command.write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m {__name__} "$@"\n'
    )
    command.chmod(0o755)


if __name__ == "__main__":
    arm()
    # Nobody sees in another pod that a process has ended.
    JobStore.lease = 2.0
    socket.gethostname = lambda: os.environ["HOSTNAME"]
    sys.exit(main())
