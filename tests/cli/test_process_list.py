"""What every user of a machine can read of the command's processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from support.canary import API_KEY, SECRET_KEY, find_secrets

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

PROC = Path("/proc")


def command_line(pid: int) -> str:
    """Read the words of a process; one that has ended has none."""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def descendants(pid: int) -> list[int]:
    """List the processes below one."""
    found: list[int] = []

    # Any of them may end in between.
    with suppress(OSError):
        for path in PROC.glob(f"{pid}/task/*/children"):
            for word in path.read_text().split():
                found += [int(word), *descendants(int(word))]

    return found


def test_no_process_of_the_command_has_a_key_among_its_words(
    process: Callable[..., subprocess.Popen[str]],
) -> None:
    """The keys come by the environment, and go to its children no other way."""
    keys = {"AMPLITUDE_API_KEY": API_KEY, "AMPLITUDE_SECRET_KEY": SECRET_KEY}
    command = process("demo", "--users", "200000", env=keys)
    seen: set[str] = set()
    children: set[int] = set()

    while command.poll() is None:
        below = descendants(command.pid)
        children.update(below)
        seen.update(map(command_line, [command.pid, *below]))

    output = "".join(command.communicate())

    assert children
    assert any("testing" in words for words in seen)
    assert [] == find_secrets("\n".join([*seen, output]))
