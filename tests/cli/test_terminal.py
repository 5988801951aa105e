"""What the command draws, where, and how it stops."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("termios", reason="needs a POSIX system")

import fcntl
import pty
import termios

from amplitude_cohorts_async.testing import CohortsEmulator
from amplitude_cohorts_async.testing.faults import cut_off, slow

pytestmark = [pytest.mark.posix, pytest.mark.slow]


@pytest.fixture
def cohorts_emulator_setup() -> CohortsEmulator:
    """A service on the real time, as its clients are processes of their own."""
    return CohortsEmulator(job_seconds=0)


@pytest.fixture(autouse=True)
def cohorts(
    cohorts_emulator: CohortsEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cohort whose file is two megabytes, and an empty folder to be in."""
    cohorts_emulator.add_cohort("big", size=200_000)
    cohorts_emulator.generate()
    monkeypatch.chdir(tmp_path)


def on_terminal(
    process: Callable[..., subprocess.Popen[str]],
    *words: object,
    columns: int = 90,
    **env: str,
) -> str:
    """Run the command on a terminal; return what was drawn there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {"TERM": "xterm-256color", **env}
    started = process(*words, stdout=theirs, stderr=theirs, stdin=theirs, env=env)
    os.close(theirs)
    drawn = b""

    while True:
        try:
            piece = os.read(ours, 65_536)
        except OSError:
            break
        if not piece:
            break
        drawn += piece

    os.close(ours)
    assert 0 == started.wait(), drawn

    return drawn.decode()


def test_a_terminal_gets_a_bar(process, cohorts_emulator: CohortsEmulator):
    """With the bytes, the speed and the time that is left."""
    cohorts_emulator.fail_next("store", slow(2_000_000))
    drawn = on_terminal(process, "export", "big", "--timeout", 0)

    assert "cohort big" in drawn
    assert re.search(r"amplitude-cohorts: requested export \w+ of", drawn)
    assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}" in drawn
    assert re.search(r"1\.\d/2\.\d MB", drawn)
    assert "MB/s" in drawn
    assert "big.csv: " in drawn


def test_a_narrow_terminal_gets_a_shorter_bar(
    process, cohorts_emulator: CohortsEmulator
):
    """Below 60 columns there is no room for speed and time."""
    cohorts_emulator.fail_next("store", slow(2_000_000))
    drawn = on_terminal(process, "export", "big", "--timeout", 0, columns=50)

    assert re.search(r"1\.\d/2\.\d MB", drawn)
    assert "MB/s" not in drawn


def test_a_renewed_link_is_told_on_a_terminal(
    process, cohorts_emulator: CohortsEmulator
):
    """Whoever watches reads why it took longer; the link's secrets are not shown."""
    cohorts_emulator.fail_next("store", cut_off(at=1_500_000))
    drawn = on_terminal(process, "export", "big", "--timeout", 0, columns=300)

    assert "continuing with a new link" in drawn
    assert "Signature=" not in drawn


@pytest.mark.parametrize("option", ["-q", "--quiet"])
def test_quiet_draws_nothing(process, option: str):
    """The result is a line, on a terminal as well."""
    drawn = on_terminal(process, "export", "big", "--timeout", 0, option, columns=300)

    assert drawn.startswith("big.csv: ")
    assert 1 == len(drawn.splitlines())


def test_a_dumb_terminal_gets_no_bar(process):
    """TERM=dumb cannot draw."""
    drawn = on_terminal(
        process, "export", "big", "--timeout", 0, columns=300, TERM="dumb"
    )

    first, second, third = drawn.splitlines()
    assert first.startswith("amplitude-cohorts: requested export ")
    assert second.startswith("big.csv: ")
    assert third.startswith("amplitude-cohorts: 1 export spent, ")


def test_no_color_is_honoured(process):
    """With NO_COLOR a table has no colours, nor has help."""
    colours = re.compile("\x1b\\[[0-9;]*3[0-7]m")

    assert colours.search(on_terminal(process, "list", "--help"))
    assert not colours.search(on_terminal(process, "list", "--help", NO_COLOR="1"))
    assert not colours.search(on_terminal(process, "list", NO_COLOR="1"))


def test_a_terminal_gets_a_table(process):
    """With a header, aligned."""
    drawn = on_terminal(process, "list", NO_COLOR="1")
    header, row = re.sub("\x1b\\[[0-9;]*m", "", drawn).splitlines()

    assert header.index("NAME") == row.index("Cohort big")


def test_a_pipe_gets_the_result_and_nothing_else(process):
    """
    Not even with FORCE_COLOR, which makes others draw into files.

    Stderr names the export, as a process that is killed says nothing afterwards; and
    what was spent.
    """
    started = process("export", "big", "--timeout", 0, env={"FORCE_COLOR": "1"})
    out, err = started.communicate()

    assert 0 == started.returncode
    assert re.fullmatch(
        r"amplitude-cohorts: requested export \w+ of cohort big\n"
        r"amplitude-cohorts: 1 export spent, 499 left of the month\n",
        err,
    )
    assert out.startswith("big.csv: ")
    assert 1 == len(out.splitlines())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_export_says_how_to_go_on(
    process, cohorts_emulator: CohortsEmulator, number: signal.Signals
):
    """Ctrl-C leaves code 130, no file, no traceback, and a command to type."""
    cohorts_emulator.add_cohort("long", members=["ann"], job_seconds=600)
    started = process("export", "long", "-o", "out.csv")
    while not cohorts_emulator.requests("export"):
        time.sleep(0.01)
    time.sleep(0.2)
    started.send_signal(number)
    out, err = started.communicate()
    requested, spent, first, again, second = err.splitlines()

    assert (130, "") == (started.returncode, out)
    assert requested.startswith("amplitude-cohorts: requested export ")
    assert "amplitude-cohorts: 1 export spent" == spent
    assert "amplitude-cohorts: interrupted" == first
    assert again.startswith("To go on: the same command, before ")
    assert re.fullmatch(r"To resume: amplitude-cohorts resume \w+ -o out\.csv", second)
    assert requested.split()[3] == second.split()[4]
    assert [] == list(Path().iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_export_as_json(
    process, cohorts_emulator: CohortsEmulator, number: signal.Signals
):
    """Its token is what the command that resumes takes; both signals interrupt."""
    cohorts_emulator.add_cohort("long", members=["ann"], job_seconds=600)
    started = process("export", "long", "--json")
    while not cohorts_emulator.requests("export"):
        time.sleep(0.01)
    time.sleep(0.2)
    started.send_signal(number)
    error = json.loads(started.communicate()[1])["error"]

    assert (130, "Interrupted") == (error["code"], error["type"])
    assert [error["token"]] == [line.split()[2] for line in error["resume"]]


LOST_IN_IMPORT = (
    r"Exception ignored in: <function _get_module_lock.*\nTraceback.*\n"
    r".*_bootstrap>.*\nKeyboardInterrupt: ?\n"
)


@pytest.mark.parametrize("seconds", [0.02, 0.1, 0.2, 0.3])
def test_ctrl_c_while_modules_load(process, seconds: float):
    """From when the package is there, the end is that of any interruption."""
    started = process("list", env={"PYTHONPROFILEIMPORTTIME": "1"})
    while "amplitude_cohorts_async.errors" not in started.stderr.readline():
        pass
    time.sleep(seconds)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate()

    # Python dies of the signal itself, to a shell 130 as well, if it came in an exec().
    assert started.returncode in {0, 130, -signal.SIGINT}
    # And Python itself shows, and forgets, one that came while it dropped a lock.
    assert "Traceback" not in re.sub(LOST_IN_IMPORT, "", err)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("list >&-", 0),
        ("usage --json >&-", 0),
        ("export big -o out.csv --timeout 0 >&-", 0),
        ("export big -o out.csv --timeout 0 2>&-", 0),
        ("export big -o out.csv --timeout 0 <&- >&- 2>&-", 0),
        ("list --nope 2>&-", 2),
    ],
)
def test_closed_streams_are_no_failure(process, tmp_path: Path, line: str, code: int):
    """What would be printed there is lost, and nothing else."""
    command = shlex.join([sys.executable, "-m", "amplitude_cohorts_async"])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        ["/bin/sh", "-c", f"{command} {line}"],
        check=False,
        env=env,
        capture_output=True,
        text=True,
    )

    assert (code, "") == (done.returncode, done.stderr.partition("Traceback")[1])
    assert ("export" in line) == Path("out.csv").exists()


def test_an_interrupted_download_leaves_nothing_half(
    process, cohorts_emulator: CohortsEmulator
):
    """The final name does not appear, and what was typed to go on brings it."""
    cohorts_emulator.fail_next("store", slow(200_000))
    started = process("export", "big", "--timeout", 0)
    while not cohorts_emulator.requests("store"):
        time.sleep(0.01)
    time.sleep(0.5)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate()

    assert 130 == started.returncode
    assert [] == list(Path().iterdir())
    words = err.splitlines()[-1].split()[3:]
    assert 0 == process(*words, stdout=None).wait()
    assert [Path("big.csv")] == list(Path().iterdir())


def test_many_that_are_interrupted_go_on_when_run_again(
    process, cohorts_emulator: CohortsEmulator
):
    """The command to type is the same one."""
    cohorts_emulator.add_cohort("long", members=["ann"], job_seconds=600)
    started = process("export", "long", "big")
    while not cohorts_emulator.requests("export"):
        time.sleep(0.01)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate()

    assert 130 == started.returncode
    assert "To resume: amplitude-cohorts export long big -o ." == err.splitlines()[-1]


def test_a_background_job_heeds_sigterm(process, cohorts_emulator: CohortsEmulator):
    """A shell's background job ignores Ctrl-C; SIGTERM still ends it in order."""
    cohorts_emulator.add_cohort("long", members=["ann"], job_seconds=600)
    started = process(
        "export",
        "long",
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    while not cohorts_emulator.requests("export"):
        time.sleep(0.01)
    time.sleep(0.2)
    started.terminate()
    _, err = started.communicate()

    assert 130 == started.returncode
    assert err.splitlines()[-1].startswith("To resume: amplitude-cohorts resume ")


def test_a_reader_that_leaves_is_no_failure(process, cohorts_emulator: CohortsEmulator):
    """`| head` ends the command in silence."""
    for number in range(2_000):
        cohorts_emulator.add_cohort(f"c{number}", members=["ann"])

    started = process("list", "--json")
    started.stdout.read(1)
    started.stdout.close()

    assert 141 == started.wait()
    assert "" == started.stderr.read()
