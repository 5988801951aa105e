"""The emulator as a process of its own, gone when we are."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import attrs

from ..errors import CohortsError

__all__ = ("Emulator", "emulator_process")

_ROOT = Path(__file__).parents[2]
_PATIENCE = 5.0


class EmulatorError(CohortsError):
    """The emulator's process did not start."""


@attrs.frozen(kw_only=True)
class Emulator:
    """Where a running emulator is, and which keys are good there."""

    base_url: str
    environment: Mapping[str, str] = attrs.field(repr=False)


@contextmanager
def emulator_process(*options: str) -> Generator[Emulator]:
    """
    Run an emulator, and end it on leaving.

    Args:
        options: Of ``python -m amplitude_cohorts_async.testing``.
    """
    # It sees the end of its stdin even when we are killed.
    options = (*options, "--until-stdin-closes")
    process = subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-m", "amplitude_cohorts_async.testing", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Python looks for modules in the current folder first: not the user's.
        cwd=_ROOT,
        # Ctrl-C is for us; we end it.
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

    facts = json.loads(line)

    return Emulator(base_url=facts["base_url"], environment=facts["environment"])


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()

    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
