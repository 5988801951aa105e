"""The command watches an export that runs, and saves nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from amplitude_cohorts_async.testing import CohortsEmulator


@pytest.fixture
def started(command, cohorts_emulator: CohortsEmulator, tmp_path: Path) -> str:
    """The request id of an export that was left while it ran."""
    cohorts_emulator.add_cohort("c1", members=["ann"], job_seconds=120)
    target = tmp_path / "c1.csv"
    code, _, err = command("export", "c1", "-o", target, "--timeout", 20)
    assert 7 == code

    return err.splitlines()[0].split()[3]


@pytest.mark.parametrize("is_named", [True, False])
def test_it_waits_for_the_export(
    command, cohorts_emulator: CohortsEmulator, started: str, is_named: bool
):
    """By its id, or the last open one; nothing is saved or spent."""
    code, out, err = command("watch", *([started] if is_named else []))

    assert 0 == code
    assert f"export\t{started}\ncohort\tc1\nstate\tready\n" == out
    assert f"watching export {started} of cohort c1" in err
    assert f"`amplitude-cohorts resume {started}` saves its file" in err
    assert (1, 0) == (cohorts_emulator.spent, cohorts_emulator.requests("file"))


def test_as_json(command, started: str):
    """Where it is already, too."""
    document = json.loads(command("watch", "--json").out)

    assert {"version", "watch"} == set(document)
    assert (started, None) == (
        document["watch"]["request_id"],
        document["watch"]["delivered_to"],
    )


def test_one_that_is_delivered_says_where(command, started: str, tmp_path: Path):
    """There is nothing to save."""
    command("resume", started)
    _, out, err = command("watch", started)

    assert f"delivered to\t{tmp_path / 'c1.csv'}\n" in out
    assert "saves its file" not in err


def test_one_that_still_runs_is_code_7(command, started: str):
    """With what to type to go on."""
    code, _, err = command("watch", "--timeout", 5)

    assert 7 == code
    assert f"To resume: amplitude-cohorts watch {started}" == err.splitlines()[-1]


def test_without_an_open_one(command):
    """Nothing is there to watch."""
    assert 4 == command("watch").code


def test_one_that_nobody_knows(command, cohorts_emulator: CohortsEmulator):
    """By the service."""
    assert 4 == command("watch", "nope").code


def test_an_address_is_shown_as_it_is_typed(command, cohorts_emulator, monkeypatch):
    """A path would have one slash only."""
    pytest.importorskip("obstore")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    cohorts_emulator.add_cohort("long", members=["ann"], job_seconds=9_000)
    _, _, err = command("export", "long", "-o", "s3://b/x.csv", "--timeout", 1)

    assert err.splitlines()[-1].endswith(" -o s3://b/x.csv")
    _, _, err = command("export", "a", "b", "-o", "s3://b/x")
    assert "s3://b/x is none" in err
