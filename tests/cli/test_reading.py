"""The command reads: list, show, usage, plan."""

from __future__ import annotations

import json

import pytest

from amplitude_cohorts_async.testing import CohortsEmulator
from amplitude_cohorts_async.testing.faults import throttled

COHORT = {
    "app_id",
    "archived",
    "chart_id",
    "created_at",
    "definition",
    "description",
    "edit_id",
    "extra",
    "finished",
    "hidden",
    "id",
    "is_official_content",
    "is_predictive",
    "last_computed",
    "last_modified",
    "last_viewed",
    "location_id",
    "metadata",
    "name",
    "owners",
    "popularity",
    "published",
    "shortcut_ids",
    "size",
    "syncs",
    "type",
    "view_count",
    "viewers",
}


@pytest.fixture(autouse=True)
def cohorts(cohorts_emulator: CohortsEmulator) -> None:
    """Two cohorts, one of them with a name that is out to get us."""
    cohorts_emulator.add_cohort("c1", members=["ann", "bob"], name="Buyers")
    cohorts_emulator.add_cohort("c2", size=10, name="[red]\x1b[2J\tEvil", type="x")


def test_list_is_one_line_a_cohort_without_header(command):
    """What is no terminal gets fields with TABs between, for `cut` and `grep`."""
    code, out, err = command("list")
    first, second = out.splitlines()

    assert (0, "") == (code, err)
    assert ["c1", "Buyers", "2", "manual_upload"] == first.split("\t")[:4]
    assert 5 == len(second.split("\t"))


def test_names_cannot_command_the_terminal(command):
    """Control characters in a name are shown as such, and markup is not obeyed."""
    assert "[red]\ufffd[2J\ufffdEvil" in command("list").out


def test_list_as_json(command):
    """The shape of the list's JSON holds."""
    document = json.loads(command("list", "--json").out)

    assert {"version", "cohorts"} == set(document)
    assert 1 == document["version"]
    assert [COHORT] * 2 == [set(cohort) for cohort in document["cohorts"]]
    assert document["cohorts"][0]["created_at"].endswith("+00:00")


def test_list_tells_syncs_when_asked(command, cohorts_emulator):
    """--sync-info asks the service for them, and adds a field with their targets."""
    syncs = [{"target": target, "frequency": "hourly"} for target in ("braze", "s3")]
    cohorts_emulator.add_cohort("c3", members=["ann"], syncs=syncs)
    lines = command("list", "--sync-info").out.splitlines()

    assert "includeSyncInfo" in cohorts_emulator.log[-1].target
    assert ["", "", "braze, s3"] == [line.split("\t")[5] for line in lines]
    assert "braze" not in command("list").out


def test_the_table_of_the_list_has_syncs_when_asked(
    command, cohorts_emulator, monkeypatch
):
    """On a terminal they have a heading, too."""
    syncs = [{"target": "braze", "frequency": "hourly"}]
    cohorts_emulator.add_cohort("c3", members=["ann"], syncs=syncs)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    heading, *_, last = command("list", "--sync-info").out.splitlines()

    assert "SYNCED TO" in heading
    assert last.rstrip().endswith("braze")
    assert "SYNCED" not in command("list").out


def test_show_tells_what_is_known_of_a_cohort(command):
    """One line for each thing; JSON has all of them."""
    assert "id\tc1\nname\tBuyers\n" in command("show", "c1").out
    assert "none" not in command("show", "c1").out.lower()
    document = json.loads(command("show", "c1", "--json").out)
    assert (1, COHORT) == (document["version"], set(document["cohort"]))


def test_usage_tells_what_is_left(command):
    """The month in four lines, or as JSON with nothing left to subtract."""
    assert "limit\t500\nused\t0\nremaining\t500\n" in command("usage").out
    document = json.loads(command("usage", "--json").out)
    keys = {"limit", "used", "remaining", "resets_at"}
    assert (1, keys) == (document["version"], set(document["usage"]))


def test_plan_tells_what_exports_would_take(command, cohorts_emulator):
    """Four start at once, the fifth a minute later; nothing is spent."""
    ids = [f"p{number}" for number in range(5)]
    for each in ids:
        cohorts_emulator.add_cohort(each, members=["ann"])

    code, out, _ = command("plan", *ids, "nope", "--job-seconds", 30)

    assert 0 == code
    assert "p3\tCohort p3\t1\t0 s\t30 s\t\n" in out
    assert "exports needed\t5\nleft after\t495\n" in out
    assert "unknown\tnope\n" in out
    assert 0 == cohorts_emulator.requests("export")


def test_plan_as_json(command):
    """The shape of the plan's JSON holds."""
    document = json.loads(command("plan", "c1", "--json").out)
    plan = document["plan"]

    assert 1 == document["version"]
    assert {"exports", "usage", "needed", "left_after", "ends_in", "unknown"} == set(
        plan
    )
    assert {"cohort_id", "name", "size", "starts_in", "ends_in", "skipped"} == set(
        plan["exports"][0]
    )


def test_weather_is_nobodys_business_without_a_terminal(command, cohorts_emulator):
    """A retried request leaves no trace on stderr."""
    cohorts_emulator.fail_next("list", throttled())

    assert (0, "") == command("list")[::2]


def ids_of(out: str) -> list[str]:
    """Return the ids of printed lines."""
    return [line.split("\t")[0] for line in out.splitlines()]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--name", "BUY"), ["c1"]),
        (("--type", "X"), ["c2"]),
        (("--name", "buy", "--type", "x"), []),
        (("--sort", "name"), ["c2", "c1"]),
        (("--sort", "size"), ["c2", "c1"]),
        (("--name", "e", "--sort", "size"), ["c2", "c1"]),
    ],
)
def test_a_list_is_narrowed_and_sorted(command, options, expected):
    """By a part of the name, by type; by name, or the largest first."""
    code, out, _ = command("list", *options)

    assert (0, expected) == (code, ids_of(out))


def test_a_list_sorted_by_time_has_the_latest_first(command, cohorts_emulator):
    """Equal times keep the order of the list."""
    assert {"c1", "c2"} == set(ids_of(command("list", "--sort", "computed").out))


@pytest.mark.parametrize("options", [("--json",), ("-q", "--json"), ("--quiet",)])
def test_shared_options_may_stand_before_the_command(command, options):
    """As people are used to from other commands."""
    assert command("list", *options) == command(*options, "list")
    assert 0 == command(*options, "jobs", "list").code


def test_a_shared_option_does_not_become_an_argument(command):
    """Behind -- there are only arguments."""
    document = json.loads(command("--json", "show", "--", "c1").out)

    assert "c1" == document["cohort"]["id"]
