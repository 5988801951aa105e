"""What the command says is in the words of its options, and short."""

from __future__ import annotations

import subprocess
import sys

import pytest

from amplitude_cohorts_async import __version__
from amplitude_cohorts_async.cli.progress import ProgressDisplay
from amplitude_cohorts_async.events import RetryScheduled
from amplitude_cohorts_async.testing import CohortsEmulator
from amplitude_cohorts_async.testing.faults import refused

PYTHON = ("allow_http", "format=", "_export(", "max_removed=", ".details", ".metadata")


def spoken(text: str) -> list[str]:
    """Return the words of Python in a text."""
    return [word for word in PYTHON if word in text]


def test_unencrypted_http_is_refused_without_a_parameter_of_python(command):
    """There is no such option."""
    code, _, err = command("list", "--base-url", "http://amplitude.example")

    assert (2, []) == (code, spoken(err))
    assert "use https" in err


def test_a_refused_request_names_no_attributes(
    command, cohorts_emulator: CohortsEmulator
):
    """The reason is in the sentence itself."""
    cohorts_emulator.fail_next("list", refused(400, "no such thing"))
    code, _, err = command("list")

    assert (1, []) == (code, spoken(err))
    assert "no such thing" in err


def test_a_file_of_one_row_has_one_row(command, cohorts_emulator, tmp_path):
    """And a check sum that leaves room; JSON has the whole one."""
    cohorts_emulator.add_cohort("c1", members=["ann"])
    file = tmp_path / "c1.parquet"
    pytest.importorskip("pyarrow")
    _, out, _ = command("export", "c1", "-o", file)

    assert ", 1 row, " in out
    assert 12 == len(out.rstrip().rpartition("sha256 ")[2])


def test_several_cohorts_need_a_directory(command, tmp_path):
    """A file that is there is called a file."""
    file = tmp_path / "out.csv"
    file.touch()
    code, _, err = command("export", "a", "b", "-o", file)

    assert 2 == code
    assert "is a file" in err


def test_help_shows_no_type_of_a_switch(command):
    """A switch takes no value; several ids have one ellipsis at most."""
    out = command("export", "--help").out

    assert "<bool>" not in out.replace("--help", "").partition("--no-jobs")[0]
    assert "...}" not in out


def test_the_same_reason_is_told_once(monkeypatch: pytest.MonkeyPatch):
    """A host that is away prints its paragraph at the first retry only."""
    told: list[str] = []
    display = ProgressDisplay(quiet=True)
    monkeypatch.setattr(display, "_bars", object())
    monkeypatch.setattr(display, "_note", lambda _, text: told.append(text))

    for seconds in (0.5, 1.0):
        display(
            RetryScheduled(
                operation="list", attempt=1, seconds=seconds, reason="away, far away"
            )
        )

    assert [
        "list: away, far away; retrying in 0.5 s",
        "list: still failing; retrying in 1.0 s",
    ] == told


@pytest.mark.slow
def test_the_version_loads_neither_typer_nor_aiohttp():
    """So it takes a fraction of a second, in which nobody presses Ctrl-C."""
    code = (
        "import sys; from amplitude_cohorts_async.cli import main; "
        "main(['--version']); print(sorted({'typer', 'aiohttp'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert f"{__version__}\n[]\n" == done.stdout


@pytest.mark.slow
def test_no_command_but_emulate_loads_a_web_server():
    """The emulator is loaded by whoever asks for it."""
    code = (
        "import sys; from amplitude_cohorts_async.cli import main; "
        "main(['list', '--help']); print('aiohttp.web' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert done.stdout.endswith("False\n")
