"""A process is ended while it waits; the same command again spends nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("termios", reason="needs a POSIX system")

import pty

from amplitude_cohorts_async.testing import CohortsEmulator
from amplitude_cohorts_async.testing.faults import hang
from support.canary import API_KEY, SECRET_KEY

pytestmark = [pytest.mark.posix, pytest.mark.slow]


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def cohorts_emulator_setup() -> CohortsEmulator:
    """A service on the real time, as its clients are processes of their own."""
    return CohortsEmulator(api_key=API_KEY, secret_key=SECRET_KEY, job_seconds=0)


@pytest.fixture(autouse=True)
def cohort(
    cohorts_emulator: CohortsEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A cohort whose file is ready at once, and an empty folder to be in.

    Nobody polls before ten seconds are over: until then a process waits.
    """
    cohorts_emulator.add_cohort("c1", members=["ann"])
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def until_spent(
    data_folder: Path, cohorts_emulator: CohortsEmulator
) -> Callable[[], str]:
    """Wait until an export is requested and recorded; return its request id."""

    def wait() -> str:
        while not cohorts_emulator.spent or not (found := recorded()):
            time.sleep(0.01)
        (request_id,) = found
        return request_id

    def recorded() -> list[str]:
        path = data_folder / "exports.db"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT value FROM rows WHERE key LIKE 'export:%'")
            exports = [json.loads(value)["row"] for (value,) in rows]
        return [each["request_id"] for each in exports if each.get("request_id")]

    return wait


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL]
)
def test_the_same_command_goes_on_whatever_ended_it(
    process: Start,
    cohorts_emulator: CohortsEmulator,
    until_spent: Callable[[], str],
    number: signal.Signals,
):
    """One export for both, and the second says so."""
    words = ("export", "c1", "-o", "out.csv")
    started = process(*words)
    request_id = until_spent()
    started.send_signal(number)
    started.communicate()
    code, out, err = ended(process(*words))

    assert (0, 1) == (code, cohorts_emulator.spent)
    assert out.startswith("out.csv: ")
    assert f" UTC ({request_id}); --fresh for a new one\n" in err
    assert "no export spent, 499 left of the month\n" in err


def test_stdout_goes_on_and_leaves_nothing_open(
    process: Start, cohorts_emulator: CohortsEmulator, until_spent: Callable[[], str]
):
    """What was killed on the way to a stream is taken up by the next one."""
    started = process("export", "c1", "-o", "-")
    until_spent()
    started.kill()
    started.communicate()
    code, out, _ = ended(process("export", "c1", "-o", "-"))

    assert (0, 1) == (code, cohorts_emulator.spent)
    assert out.startswith('"amplitude_id","user_id"')
    assert "" == ended(process("jobs", "--open"))[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stdout_that_nobody_reads_is_gone_on_with(
    process: Start,
    cohorts_emulator: CohortsEmulator,
    until_spent: Callable[[], str],
    tmp_path: Path,
    number: signal.Signals,
):
    """Delivered is what was flushed, not before; nothing stays on the disk."""
    cohorts_emulator.add_cohort("big", size=20_000)
    folder = tmp_path / "temporary"
    folder.mkdir()
    words = ("export", "big", "-o", "-")
    started = process(*words, env={"TMPDIR": str(folder)})
    until_spent()
    started.stdout.read(1)  # the rest is more than a pipe takes
    started.send_signal(number)
    err = ended(started)[2]
    code, out, _ = ended(process(*words))

    assert (0, 1) == (code, cohorts_emulator.spent)
    assert 20_001 == len(out.splitlines())
    assert [] == list(folder.iterdir())
    assert ("To go on: the same command, " in err) == (number == signal.SIGINT)
    assert "" == ended(process("jobs", "--open"))[1]


def test_a_full_stdout_is_gone_on_with(
    process: Start, cohorts_emulator: CohortsEmulator
):
    """As a full disk: nothing is lost, and nothing more spent."""
    with Path("/dev/full").open("w") as full:
        started = process("export", "c1", "-o", "-", stdout=full)
    code, err = started.wait(), started.stderr.read()
    again = ended(process("export", "c1", "-o", "-"))

    assert (7, 0, 1) == (code, again[0], cohorts_emulator.spent)
    assert "stdout cannot be written: No space left on device" in err
    assert "To go on: the same command, " in err
    assert "To resume: amplitude-cohorts resume " in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_service_brings_what_was_left(
    process: Start,
    cohorts_emulator: CohortsEmulator,
    until_spent: Callable[[], str],
    number: signal.Signals,
):
    """It waits for more until it is interrupted, which is its usual end."""
    started = process("export", "c1", "-o", "out.csv")
    until_spent()
    started.kill()
    started.communicate()
    runner = process("jobs", "run", "--forever", "--json")
    document = json.loads(runner.stdout.readline())
    runner.send_signal(number)

    assert [("c1", 0)] == [
        (each["cohort_id"], each["spent"]) for each in document["exports"]
    ]
    assert Path("out.csv").exists()
    assert 0 == runner.wait()
    assert 1 == cohorts_emulator.spent


def test_many_killed_go_on(
    process: Start, cohorts_emulator: CohortsEmulator, until_spent: Callable[[], str]
):
    """A directory, as a file does."""
    Path("out").mkdir()
    words = ("export", "c1", "-o", "out")
    started = process(*words)
    until_spent()
    started.kill()
    started.communicate()

    assert 0 == ended(process(*words))[0]
    assert 1 == cohorts_emulator.spent
    assert Path("out/c1.csv").exists()


def test_the_ways_on_are_the_last_lines(process: Start, until_spent: Callable[[], str]):
    """The same command until when, and one that works elsewhere, too."""
    started = process("export", "c1", "-o", "out.csv")
    until_spent()
    started.send_signal(signal.SIGHUP)
    code, _, err = ended(started)
    _, spent, interrupted, again, resume = err.splitlines()

    assert 130 == code
    assert "amplitude-cohorts: 1 export spent" == spent
    assert "amplitude-cohorts: interrupted" == interrupted
    assert re.fullmatch(
        r"To go on: the same command, before (\S+ )?\d\d:\d\d UTC", again
    )
    assert re.fullmatch(r"To resume: amplitude-cohorts resume \w+ -o out\.csv", resume)
    assert [] == list(Path().iterdir())


def test_nohup_is_respected(process: Start, until_spent: Callable[[], str]):
    """What has the command ignore the closed terminal, it goes on."""
    started = process(
        "export",
        "c1",
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    until_spent()
    started.send_signal(signal.SIGHUP)

    with pytest.raises(subprocess.TimeoutExpired):
        started.wait(1)


def test_a_closed_terminal_ends_it_in_order(
    process: Start, cohorts_emulator: CohortsEmulator, until_spent: Callable[[], str]
):
    """Nothing is left in the folder, and the same command goes on elsewhere."""
    ours, theirs = pty.openpty()
    started = process(
        "export",
        "c1",
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={"TERM": "xterm"},
        start_new_session=True,
    )
    os.close(theirs)
    until_spent()
    os.close(ours)
    started.send_signal(signal.SIGHUP)

    assert 130 == started.wait()
    assert [] == list(Path().iterdir())
    assert 0 == ended(process("export", "c1"))[0]
    assert 1 == cohorts_emulator.spent


@pytest.fixture
def in_doubt(process: Start, cohorts_emulator: CohortsEmulator) -> None:
    """A process that was killed after the request was sent, before its answer."""
    cohorts_emulator.fail_next("export", hang())
    started = process("export", "c1")
    until_sent(cohorts_emulator, 1)
    started.kill()
    started.communicate()


@pytest.mark.usefixtures("in_doubt")
def test_what_is_in_doubt_is_not_spent_unasked(
    process: Start, cohorts_emulator: CohortsEmulator
):
    """The message speaks of the command's options; one of them goes on."""
    code, _, err = ended(process("export", "c1", stdin=subprocess.DEVNULL))

    assert 1 == code
    assert "may have been spent at " in err
    assert "--on-unknown spend" in err
    assert "on_unknown" not in err
    assert 1 == cohorts_emulator.requests("export")
    process("export", "c1", "--on-unknown", "spend")
    until_sent(cohorts_emulator, 2)


def test_a_run_says_what_is_not_finished_yet(
    process: Start, cohorts_emulator: CohortsEmulator
):
    """Another command has asked for it, and has no answer yet."""
    cohorts_emulator.fail_next("export", hang())
    asking = process("export", "c1")
    until_sent(cohorts_emulator, 1)
    code, out, err = ended(process("jobs", "run"))
    asking.kill()
    asking.communicate()

    assert (7, "") == (code, out)
    assert " of cohort c1 is not finished yet: " in err
    assert "`amplitude-cohorts jobs run" in err


@pytest.mark.usefixtures("in_doubt")
@pytest.mark.parametrize(("answer", "code", "sent"), [("y", 130, 2), ("n", 1, 1)])
def test_a_terminal_is_asked_about_what_is_in_doubt(
    process: Start, cohorts_emulator: CohortsEmulator, answer: str, code: int, sent: int
):
    """Whoever sits there decides."""
    ours, theirs = pty.openpty()
    started = process("export", "c1", stdin=theirs)
    os.write(ours, f"{answer}\n".encode())
    if sent == 2:
        until_sent(cohorts_emulator, 2)
        started.terminate()
    found, _, err = ended(started)
    os.close(theirs)
    os.close(ours)

    assert "Spend another one? [y/N]" in err
    assert (code, sent) == (found, cohorts_emulator.requests("export"))


def until_sent(emulator: CohortsEmulator, count: int) -> None:
    """Wait until so many exports were asked for."""
    while emulator.requests("export") < count:
        time.sleep(0.01)


def ended(started: subprocess.Popen[str]) -> tuple[int, str, str]:
    """How a process ended, and what it printed."""
    out, err = started.communicate()

    return started.returncode, out, err
