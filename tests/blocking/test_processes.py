"""Forks, signals and the end of a process: nothing hangs, and nothing is printed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import amplitude_cohorts_async
from amplitude_cohorts_async.blocking import CohortsClient
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock

from .conftest import COHORT

pytestmark = pytest.mark.slow

# Newer Pythons warn of a fork beside a thread.
WARNED = ("-W", "default", "-W", "ignore:This process")

HEAD = """
import os, sys, threading
from amplitude_cohorts_async.blocking import CohortsClient, _portal
from amplitude_cohorts_async.events import ExportRequested
client = CohortsClient.from_env()
client.get_usage()
"""

ENDS = {
    "left open": "",
    "dropped": "import gc; gc.freeze()",
    "inside of a block": "with client: sys.exit(0)",
    "a stream is open": """
job = client.resume_export(sys.argv[1])
block = job.members()
members = block.__enter__()
next(members)
""",
    "batches are open": f"""
batch = client.export_many(["{COHORT}"], ".")
batch.__enter__()
""",
    "outcomes are open": """
outcomes = client.run_jobs(forever=True)
threading.Thread(target=next, args=[outcomes], daemon=True).start()
while not _portal._portal._tasks:
    pass
""",
    "a thread is in a call": f"""
class Hook:
    requested = threading.Event()
    def __call__(self, event):
        if isinstance(event, ExportRequested):
            self.requested.set()
other = CohortsClient.from_env(hook=Hook())
export = lambda: other.export("{COHORT}", "members.csv")
threading.Thread(target=export, daemon=True).start()
Hook.requested.wait()
""",
    "another atexit": """
import atexit
def late():
    try:
        client.get_usage()
    except Exception as error:
        assert "ending" in str(error), error
atexit.register(late)
_portal._portal and atexit.unregister(_portal._portal.stop)
atexit.register(_portal._portal.stop)
""",
}

FORKS = """
job = client.resume_export(sys.argv[1])
block = job.members()
members = block.__enter__()
if child := os.fork():
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    # The connections of the parent, which it keeps alive, are still its own.
    client.get_usage()
    print("parent", sum(map(len, members.batches())), status)
    block.__exit__(None, None, None)
    client.close()
else:
    used = client.get_usage().used
    with job.members() as again:
        print("child", used, sum(1 for _ in again), flush=True)
    for late in (lambda: next(members), lambda: block.__exit__(None, None, None)):
        try:
            late()
        except Exception as error:
            assert "forked" in str(error), error
        else:
            sys.exit("no error")
    client.close()
    sys.exit(7)
"""

PRESSED = """
import asyncio, random, signal
job = client.resume_export(sys.argv[1])

def read():
    with job.members() as members:
        for _ in members:
            pass

ways = [
    client.get_usage,
    read,
    lambda: job.download("members.csv", progress=lambda _: None),
    lambda: next(client.run_jobs(forever=True)),
]
chance, pressed = random.Random(7), 0

for number in range(120):
    press = threading.Timer(
        chance.random() / 20, os.kill, [os.getpid(), signal.SIGINT]
    )
    try:
        try:
            press.start()
            ways[number % len(ways)]()
            press.join()
            threading.Event().wait(9)
        except KeyboardInterrupt:
            pressed += 1
        press.join()
    except KeyboardInterrupt:
        pressed += 1

client.get_usage()

async def look():
    tasks = _portal._portal._tasks - {asyncio.current_task()}
    return [task for task in tasks if not task.done()]

print(pressed, client._bridge.call().run(look))
"""

INTERRUPTED = f"""
def hear(event):
    if isinstance(event, ExportRequested):
        print("requested", flush=True)
with CohortsClient.from_env(hook=hear) as other:
    try:
        other.export("{COHORT}", "members.csv")
    except KeyboardInterrupt as error:
        # Asked in the loop, behind whatever has just ended there.
        running = other._bridge.call().run_sync(lambda: len(_portal._portal._tasks))
        print(running - 1, *error.__notes__, flush=True)
        raise
"""


def environment(**more: str) -> dict[str, str]:
    """Return the emulator's variables, and where this package is."""
    package = Path(amplitude_cohorts_async.__file__).parents[1]

    return {**os.environ, **more, "PYTHONPATH": str(package)}


def run(code: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process that warns of what is left open."""
    return subprocess.run(
        [sys.executable, *WARNED, "-c", code, *words],
        capture_output=True,
        check=False,
        cwd=folder,
        env=environment(),
        text=True,
        timeout=60,
    )


@pytest.fixture
def token(cohorts_emulator: CohortsEmulator) -> str:
    """An export whose file is ready."""
    cohorts_emulator.add_cohort(COHORT, size=25_000)

    with CohortsClient.from_env(clock=cohorts_emulator.clock) as client:
        return client.request_export(COHORT).wait().token


@pytest.mark.parametrize("end", ENDS)
def test_a_process_ends(token: str, tmp_path: Path, end: str) -> None:
    """At once, without a word, whatever is open or under way."""
    ended = run(HEAD + ENDS[end], tmp_path, token)

    assert "" == ended.stderr
    assert 0 == ended.returncode


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_has_a_portal_of_its_own(token: str, tmp_path: Path) -> None:
    """The same client and job work in both; the parent's connections are its own."""
    ended = run(HEAD + FORKS, tmp_path, token)

    assert "" == ended.stderr
    assert ["child 1 25000", "parent 25000 7"] == ended.stdout.splitlines()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is another thing there")
def test_a_signal_cancels_and_shows_the_token(tmp_path: Path) -> None:
    """As Ctrl-C in a shell: exit by the signal, with the token below the traceback."""
    with (
        CohortsEmulator(clock=FakeClock(flows=True), job_seconds=1e9) as emulator,
        subprocess.Popen(
            [sys.executable, *WARNED, "-c", HEAD + INTERRUPTED],
            cwd=tmp_path,
            env=environment(**emulator.environment()),
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        emulator.add_cohort(COHORT, size=2_000)
        assert process.stdout
        assert "requested\n" == process.stdout.readline()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)

    assert -signal.SIGINT == process.returncode
    assert output.startswith("0 an export was requested; resume_export() goes on")
    assert errors.splitlines()[-2] == "KeyboardInterrupt"
    assert COHORT in errors.splitlines()[-1]


@pytest.mark.forced
@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is another thing there")
def test_it_may_be_pressed_at_any_time(token: str, tmp_path: Path) -> None:
    """Nothing hangs, and nothing is left running, wherever it comes."""
    ended = run(HEAD + PRESSED, tmp_path, token)

    assert "" == ended.stderr
    assert "120 []" == ended.stdout.strip()
