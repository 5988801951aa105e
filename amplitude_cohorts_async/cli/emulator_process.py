"""The emulator in a separate process, which ends with this one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import attrs

from ..errors import CohortsError

__all__ = ("GENERATING", "Emulator", "emulator_process")

GENERATING = "Generating the users; this takes a few seconds the first time."

_ROOT = Path(__file__).parents[2]
_TERMINATION_TIMEOUT = 5.0


class EmulatorError(CohortsError):
    """The emulator's process did not start."""


@attrs.frozen(kw_only=True)
class Emulator:
    """The address of a running emulator, and the environment for its clients."""

    base_url: str
    environment: Mapping[str, str] = attrs.field(repr=False)


@contextmanager
def emulator_process(*options: str) -> Generator[Emulator]:
    """
    Run an emulator, and end it on leaving.

    Args:
        options: Of ``python -m amplitude_cohorts_async.testing``.
    """
    # Its stdin closes even when this process is killed.
    options = (*options, "--until-stdin-closes")
    process = subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-m", "amplitude_cohorts_async.testing", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Python looks for modules in the current folder first, which must not be
        # the user's.
        cwd=_ROOT,
        # Ctrl-C must not reach it: this process ends it.
        start_new_session=True,
        text=True,
    )

    with process:
        try:
            yield _ready(process)
        finally:
            _end(process)


def _ready(process: subprocess.Popen[str]) -> Emulator:
    if process.stdout is None or not (line := process.stdout.readline()):
        raise EmulatorError(
            f"the emulator ended before it was ready, with exit code {process.wait()}"
        )

    addresses = json.loads(line)

    return Emulator(
        base_url=addresses["base_url"], environment=addresses["environment"]
    )


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()

    try:
        process.wait(_TERMINATION_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
