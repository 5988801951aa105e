"""The command reads: list, show, usage, plan."""

from __future__ import annotations

import csv
import io
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
    assert 2 == document["version"]
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
    assert (2, COHORT) == (document["version"], set(document["cohort"]))


def test_usage_tells_what_is_left(command):
    """The month in four lines, or as JSON with nothing left to subtract."""
    assert "limit\t500\nused\t0\nremaining\t500\n" in command("usage").out
    document = json.loads(command("usage", "--json").out)
    keys = {"limit", "used", "remaining", "resets_at"}
    assert (2, keys) == (document["version"], set(document["usage"]))


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

    assert 2 == document["version"]
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


def test_a_list_as_lines_of_json(command):
    """One object a line, for tools that read streams."""
    _, out, _ = command("list", "--jsonl")
    found = [json.loads(line) for line in out.splitlines()]

    assert ["c1", "c2"] == [each["id"] for each in found]
    assert COHORT == set(found[0])


def test_a_list_as_csv(command, cohorts_emulator: CohortsEmulator):
    """A header, ISO times, and names as they are, quotes included."""
    cohorts_emulator.add_cohort("c3", members=["ann"], name='a, "b"\nc')
    rows = list(csv.DictReader(io.StringIO(command("list", "--csv").out)))

    assert ["c1", "c2", "c3"] == [row["id"] for row in rows]
    assert 'a, "b"\nc' == rows[2]["name"]
    assert ("2", "true") == (rows[0]["size"], rows[0]["published"])
    assert rows[0]["created_at"].endswith("+00:00")


def test_csv_cannot_command_the_terminal(command, monkeypatch: pytest.MonkeyPatch):
    """A file has the name as it is."""
    assert "\x1b" in command("list", "--csv").out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert "\x1b" not in command("list", "--csv").out


def test_one_form_of_a_list_at_a_time(command):
    """Two of them contradict each other."""
    code, _, err = command("list", "--jsonl", "--csv")

    assert 2 == code
    assert "one of --json, --jsonl and --csv" in err


@pytest.mark.parametrize("words", [("list", "--verbose"), ("-v", "list")])
def test_verbose_tells_each_request(command, cohorts_emulator, words):
    """On stderr, with the status; stdout stays as it is."""
    cohorts_emulator.fail_next("list", throttled())
    code, out, err = command(*words)

    assert (0, ["c1", "c2"]) == (code, ids_of(out))
    assert "RetryScheduled operation=list" in err
    assert "RequestSent operation=list status=200" in err


def test_a_proxy_is_used(command, cohorts_emulator: CohortsEmulator):
    """Here the emulator is asked as a proxy, for a host that is not there."""
    words = ("--base-url", "http://127.0.0.1:9", "--proxy", cohorts_emulator.base_url)
    code, _, _ = command("list", *words)

    assert 4 == code
    assert cohorts_emulator.log[-1].target.startswith("http://127.0.0.1:9/api/3")


def test_the_environments_proxy_is_used_by_choice(
    command, cohorts_emulator: CohortsEmulator, monkeypatch: pytest.MonkeyPatch
):
    """Only with --proxy env, and not for hosts of NO_PROXY."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    assert 0 == command("list").code

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert 0 == command("list", "--proxy", "env").code


def test_a_password_of_a_proxy_is_no_argument(command):
    """Other users could read it."""
    code, _, err = command("list", "--proxy", "http://me:hush@proxy.example:1")

    assert (2, False) == (code, "hush" in err)
    assert "--proxy env" in err
