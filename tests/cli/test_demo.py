"""The command shows itself: demo, emulate."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
from inspect import signature
from pathlib import Path

import pytest

from amplitude_cohorts_async.cli.demo import demo
from amplitude_cohorts_async.cli.emulate import emulate
from amplitude_cohorts_async.testing.demo import add_demo_cohorts

pytestmark = pytest.mark.slow

FACTS = {
    "anonymous",
    "api_calls",
    "downloaded",
    "exports_spent",
    "links",
    "megabytes_per_second",
    "path",
    "peak_memory",
    "seconds",
    "size",
    "users",
}


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files of this test alone."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    return tmp_path


def demo_folders(folder: Path) -> list[Path]:
    """What demos left behind."""
    return list(folder.glob("amplitude-cohorts-demo-*"))


def test_demo_recovers_and_counts(process, tmp_path: Path):
    """Three links, one export spent, every user counted, and nothing left behind."""
    started = process("demo", "--users", 20_000, "--json")
    out, _ = started.communicate()
    document = json.loads(out)
    demo = document["demo"]

    assert (0, 2) == (started.returncode, document["version"])
    assert FACTS == set(demo)
    assert (20_000, 2_000) == (demo["users"], demo["anonymous"])
    assert (3, 1) == (demo["links"], demo["exports_spent"])
    assert demo["path"] is None
    assert [] == demo_folders(tmp_path)


def test_demo_tells_its_story(process, tmp_path: Path):
    """Step by step, then what a person wants to see; the file is kept if asked for."""
    file = tmp_path / "kept.csv"
    started = process("demo", "--users", 20_000, "-o", file)
    out, err = started.communicate()
    last = [line.split()[0] for line in out.splitlines()[-8:]]

    assert (0, "") == (started.returncode, err)
    assert [1, 2, 3, 4, 5] == [
        int(n) for n in re.findall(r"^(\d)\. ", out, re.MULTILINE)
    ]
    assert ["users", "bytes", "seconds", "MB/s"] == last[:4]
    assert ["API", "links", "exports", "peak"] == last[4:]
    assert 20_001 == len(file.read_text().splitlines())


@pytest.mark.parametrize("line", [1, 3, 8])
def test_an_interrupted_demo_leaves_nothing(process, tmp_path: Path, line: int):
    """Ctrl-C ends its emulator as well, and removes its folder, at any time."""
    started = process("demo", "--users", 20_000)
    told = [started.stdout.readline() for _ in range(line)]
    started.send_signal(signal.SIGINT)
    out, err = started.communicate()
    port = re.search(r"http://127\.0\.0\.1:(\d+)", "".join([*told, out]))

    assert (130, "amplitude-cohorts: interrupted\n") == (started.returncode, err)
    assert [] == demo_folders(tmp_path)
    assert port is None or not _listens(int(port[1]))


def test_an_emulator_that_does_not_start_is_told(
    command, monkeypatch: pytest.MonkeyPatch
):
    """A paragraph, not a traceback."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    code, _, err = command("demo")

    assert 1 == code
    assert err.startswith("amplitude-cohorts: the emulator ended before it was ready")
    assert 1 == len(err.splitlines())


@pytest.mark.parametrize("name", ["x.txt", "missing/x.csv", "."])
def test_demo_checks_its_file_first(command, name: str):
    """Before it starts the emulator."""
    code, out, err = command("demo", "-o", name)

    assert (2, "", 1) == (code, out, len(err.splitlines()))


@pytest.mark.big
def test_demo_of_two_million_users(process):
    """All are made up, exported and counted, in flat memory."""
    started = process("demo", "--json", "-q")
    out, err = started.communicate()
    demo = json.loads(out)["demo"]

    assert (0, "") == (started.returncode, err)
    assert 2_000_000 == demo["users"]
    assert demo["peak_memory"] < 250_000_000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_emulate_runs_until_it_is_stopped(process, number: signal.Signals):
    """It prints the variables that point a client to it; being stopped is its end."""
    started = process("emulate", "--users", 2_000)
    lines = [started.stdout.readline() for _ in range(5)]
    env = dict(line.removeprefix("export ").strip().split("=", 1) for line in lines)
    asked = process("list", env=env)
    out, _ = asked.communicate()
    started.send_signal(number)
    _, err = started.communicate()

    assert all(line.startswith("export AMPLITUDE_") for line in lines)
    assert "26umsb5\tSpring buyers\t3\t" in out
    assert (0, "") == (started.returncode, err)


def test_emulate_as_json(process):
    """The shape of the emulator's JSON holds."""
    started = process("emulate", "--users", 2_000, "--json", "--no-limits")
    document = json.loads(started.stdout.readline())
    started.terminate()

    assert 2 == document["version"]
    assert {"base_url", "store_url", "environment", "cohorts"} == set(
        document["emulator"]
    )


def test_emulate_on_a_port_in_use(process, cohorts_emulator):
    """A paragraph that names the address."""
    port = cohorts_emulator.base_url.rpartition(":")[2]
    started = process("emulate", "--users", 0, "--port", port)
    _, err = started.communicate()

    assert 1 == started.returncode
    assert 1 == len(err.splitlines())
    assert port in err
    assert "pass another --port, or 0 for a free one" in err


def test_all_demos_show_the_same_cohorts():
    """By default `demo` and `emulate` make as many users as `serve --demo`."""
    sizes = {
        signature(demo).parameters["users"].default,
        signature(emulate).parameters["users"].default,
        signature(add_demo_cohorts).parameters["size"].default,
    }

    assert {2_000_000} == sizes


def _listens(port: int) -> bool:
    probe = f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)"
    command = [sys.executable, "-c", probe]

    return 0 == subprocess.run(command, check=False, capture_output=True).returncode
