"""The command writes: upload, members, sync, diff."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from amplitude_cohorts_async import _operations
from amplitude_cohorts_async._writes import batches as batches_module
from amplitude_cohorts_async.cli import main
from amplitude_cohorts_async.testing import CohortsEmulator
from amplitude_cohorts_async.testing.faults import refused, works

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def ids(tmp_path: Path) -> Path:
    """A file of three ids, one of which nobody has."""
    file = tmp_path / "ids.txt"
    file.write_text("ann\nunknown-1\nbob\n")

    return file


@pytest.fixture
def project(cohorts_emulator: CohortsEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where uploads go: the emulator's project."""
    monkeypatch.setenv("AMPLITUDE_APP_ID", "153957")
    monkeypatch.setenv("AMPLITUDE_OWNER", "datamonster@amplitude.com")


@pytest.fixture(autouse=True)
def no_waiting(
    cohorts_emulator: CohortsEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command shares the emulator's clock, which jumps."""
    monkeypatch.setattr(_operations, "SystemClock", lambda: cohorts_emulator.clock)


def run(capsys: Capture, *words: object) -> tuple[int, str, str]:
    """Run the command; return its code and what it printed."""
    code = main([str(word) for word in words])
    printed = capsys.readouterr()

    return code, printed.out, printed.err


@pytest.mark.usefixtures("project")
def test_upload_makes_a_cohort_of_a_file(
    cohorts_emulator: CohortsEmulator, capsys: Capture, ids: Path, tmp_path: Path
):
    """The report is on stdout, and what was skipped in a file of its own."""
    skipped = tmp_path / "skipped.txt"
    words = ("upload", "Buyers", ids, "--id-type", "user", "--skipped", skipped)
    code, out, _ = run(capsys, *words)
    (cohort_id,) = cohorts_emulator.cohort_ids

    assert 0 == code
    assert f"cohort\t{cohort_id}\nids\t3\nmatched\t2\n" in out
    assert "skipped ids known\t1\nrequests" in out
    assert "unknown-1\n" == skipped.read_text()
    assert {"ann", "bob"} == cohorts_emulator.members_of(cohort_id)


@pytest.mark.usefixtures("project")
def test_upload_tells_how_many_skipped_ids_are_not_named(
    cohorts_emulator: CohortsEmulator,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    """The service names ten of the first request's, and all of the later ones."""
    monkeypatch.setattr(batches_module, "MOST_IDS", 20)
    file, skipped = tmp_path / "ids.txt", tmp_path / "skipped.txt"
    unknown = [f"unknown-{number}" for number in range(22)]
    file.write_text("\n".join(["ann", *unknown, "bob"]))
    words = ("upload", "Buyers", file, "--id-type", "user", "--skipped", skipped)
    code, out, _ = run(capsys, *words)

    assert 0 == code
    assert "matched\t2\nskipped ids known\t13\nskipped ids not named\t9\n" in out
    assert 13 == len(skipped.read_text().splitlines())


@pytest.mark.usefixtures("project")
def test_upload_reads_stdin_and_prints_json(
    cohorts_emulator: CohortsEmulator, capsys: Capture, monkeypatch: pytest.MonkeyPatch
):
    """As behind `psql`; the JSON has the report under its name."""
    stdin = io.TextIOWrapper(io.BytesIO(b"1\n2\n2\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    code, out, _ = run(
        capsys, "upload", "Buyers", "-", "--id-type", "amplitude", "--json"
    )
    (cohort_id,) = cohorts_emulator.cohort_ids

    assert 0 == code
    assert {
        "cohort_id": cohort_id,
        "total": 2,
        "matched": 2,
        "invalid_sample": [],
        "skipped_ids": [],
        "batches": 1,
        "totals": 2,
        "adopted": False,
        "resumed": 0,
    } == json.loads(out)["upload"]


@pytest.mark.usefixtures("project")
def test_upload_goes_on_from_its_journal(
    cohorts_emulator: CohortsEmulator,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    """A failure half way says which command goes on, and that command does."""
    monkeypatch.setattr(batches_module, "MOST_IDS", 10)
    file, journal = tmp_path / "ids.txt", tmp_path / "the journal"
    file.write_text("\n".join(map(str, range(35))))
    words = ("upload", "Buyers", file, "--id-type", "user")
    cohorts_emulator.fail_next("membership", works(), refused(400, "no"))
    code, _, err = run(capsys, *words, "--journal", journal)

    assert 7 == code
    assert f"To resume: amplitude-cohorts upload Buyers {file} --id-type user" in err
    assert f"--resume '{journal}'" in err

    code, out, _ = run(capsys, *words, "--resume", journal)
    (cohort_id,) = cohorts_emulator.cohort_ids

    assert 0 == code
    assert "resumed requests\t2\n" in out
    assert 35 == len(cohorts_emulator.members_of(cohort_id))


@pytest.mark.usefixtures("project")
def test_a_journal_that_does_not_fit_is_no_way_on(
    cohorts_emulator: CohortsEmulator, capsys: Capture, tmp_path: Path
):
    """The same command would fail again, so it is not offered."""
    file, journal = tmp_path / "ids.txt", tmp_path / "journal"
    file.write_text("ann")
    words = ("upload", "Buyers", file, "--id-type", "user")
    run(capsys, *words, "--journal", journal)
    file.write_text("bob")
    code, _, err = run(capsys, *words, "--resume", journal)

    assert 2 == code
    assert "with other ids" in err
    assert "To resume" not in err
    assert 1 == cohorts_emulator.requests("upload")


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--journal", "{ids}"], "exists; resume with --resume"),
        (["--resume", "/nowhere"], "there is no journal"),
        (["--journal", "/nowhere", "--resume", "{ids}"], "not both"),
        (["--secret-key-stdin"], "stdin cannot hold both"),
        (["--owner", ""], "owner"),
    ],
)
def test_mistakes_are_told_before_anything_is_sent(
    cohorts_emulator: CohortsEmulator,
    capsys: Capture,
    ids: Path,
    words: list[str],
    reason: str,
):
    """With the exit code of a wrong usage."""
    source = "-" if "--secret-key-stdin" in words else ids
    given = [word.format(ids=ids) for word in words]
    code, _, err = run(capsys, "upload", "B", source, "--id-type", "user", *given)

    assert 2 == code
    assert reason in err
    assert [] == cohorts_emulator.log


def test_upload_without_a_project_says_where_to_say_it(
    cohorts_emulator: CohortsEmulator,
    capsys: Capture,
    ids: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """The message names the variable."""
    monkeypatch.delenv("AMPLITUDE_APP_ID", raising=False)
    code, _, err = run(capsys, "upload", "Buyers", ids, "--id-type", "user")

    assert 2 == code
    assert "AMPLITUDE_APP_ID" in err
    assert [] == cohorts_emulator.log


@pytest.mark.usefixtures("project")
def test_upload_has_an_option_for_every_parameter(
    cohorts_emulator: CohortsEmulator, capsys: Capture, ids: Path
):
    """Replace, validate, fail on unknown ids, groups, hidden cohorts."""
    cohorts_emulator.add_cohort("1a2bc3d", members=["old"])
    words = ("upload", "Buyers", ids, "--id-type", "user")

    assert "none, validated only" in run(capsys, *words, "--validate-only")[1]
    assert {"old"} == cohorts_emulator.members_of("1a2bc3d")
    assert 0 == run(capsys, *words, "--replace", "1a2bc3d", "--yes")[0]
    assert {"ann", "bob"} == cohorts_emulator.members_of("1a2bc3d")
    assert 1 == run(capsys, *words, "--strict")[0]
    assert ["1a2bc3d"] == cohorts_emulator.cohort_ids
    assert 0 == run(capsys, *words, "--unpublished", "--group", "company")[0]
    assert 2 == len(cohorts_emulator.cohort_ids)


@pytest.mark.usefixtures("project")
def test_a_replacement_asks_and_takes_no_for_an_answer(
    cohorts_emulator: CohortsEmulator,
    capsys: Capture,
    ids: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """When stdin is not a terminal, it refuses."""
    cohorts_emulator.add_cohort("1a2bc3d", members=["old"])
    words = ("upload", "Buyers", ids, "--id-type", "user", "--replace", "1a2bc3d")
    code, _, err = run(capsys, *words)

    assert (2, True) == (code, "pass --yes" in err)
    assert [] == cohorts_emulator.log

    for answer, code, expected in (("n", 1, {"old"}), ("y", 0, {"ann", "bob"})):
        stdin = io.StringIO(f"{answer}\n")
        monkeypatch.setattr(stdin, "isatty", lambda: True)
        monkeypatch.setattr(sys, "stdin", stdin)

        assert code == run(capsys, *words)[0]
        assert expected == cohorts_emulator.members_of("1a2bc3d")


@pytest.mark.usefixtures("project")
def test_a_replacement_is_guarded(
    cohorts_emulator: CohortsEmulator, capsys: Capture, ids: Path, tmp_path: Path
):
    """It removes half of the members at most, unless told otherwise."""
    members = [f"user-{number}" for number in range(100)]
    cohorts_emulator.add_cohort("1a2bc3d", members=members)
    words = ("upload", "Buyers", ids, "--id-type", "user", "--replace", "1a2bc3d")
    words = (*words, "--yes", "--journal", tmp_path / "journal")
    code, _, err = run(capsys, *words)

    assert (1, True) == (code, "at least 97" in err)
    assert "Pass a larger" in err
    assert "max_removed" not in err
    assert "To resume" not in err
    assert 100 == len(cohorts_emulator.members_of("1a2bc3d"))

    words = (*words[:-2], "--max-removed", 1)
    assert 0 == run(capsys, *words)[0]
    assert {"ann", "bob"} == cohorts_emulator.members_of("1a2bc3d")


def test_members_are_added_and_removed(
    cohorts_emulator: CohortsEmulator, capsys: Capture, ids: Path, tmp_path: Path
):
    """One file, either way; what was skipped is appended to its file."""
    skipped = tmp_path / "skipped.txt"
    cohorts_emulator.add_cohort("1a2bc3d", members=["eve"])
    words = ("1a2bc3d", ids, "--skipped", skipped)

    code, out, _ = run(capsys, "members", "add", *words)
    assert (0, "added\t2\nskipped\t1\nrequests\t1\n") == (code, out)
    assert {"eve", "ann", "bob"} == cohorts_emulator.members_of("1a2bc3d")

    code, out, _ = run(capsys, "members", "remove", *words, "--json")
    assert (0, 3) == (code, json.loads(out)["members"]["removed"]["sent"])
    assert {"eve"} == cohorts_emulator.members_of("1a2bc3d")
    assert "unknown-1\nunknown-1\n" == skipped.read_text()


def test_members_can_fail_on_unknown_ids(
    cohorts_emulator: CohortsEmulator, capsys: Capture, ids: Path, tmp_path: Path
):
    """Nothing is added then, and a journal says how to go on."""
    journal = tmp_path / "journal"
    cohorts_emulator.add_cohort("1a2bc3d", members=["eve"])
    words = ("members", "add", "1a2bc3d", ids, "--strict", "--journal", journal)
    code, _, err = run(capsys, *words)

    assert 1 == code
    assert f"members add 1a2bc3d {ids} --id-type user --count-group User" in err
    assert {"eve"} == cohorts_emulator.members_of("1a2bc3d")


def test_sync_makes_a_cohort_equal_to_a_file(
    cohorts_emulator: CohortsEmulator, capsys: Capture, ids: Path
):
    """First a look that writes nothing, then the change."""
    cohorts_emulator.add_cohort("1a2bc3d", members=["ann", "eve"])
    words = ("sync", "1a2bc3d", ids)

    code, out, _ = run(capsys, *words, "--dry-run")
    assert (0, "to add\t2\nto remove\t1\nkept\t1\nwithout a valid id\t0\n") == (
        code,
        out,
    )

    code, out, _ = run(capsys, *words, "--dry-run", "--json", "--list-ids")
    assert ["unknown-1", "bob"] == json.loads(out)["sync"]["add_ids"]
    assert {"ann", "eve"} == cohorts_emulator.members_of("1a2bc3d")

    code, out, _ = run(capsys, *words, "--dry-run", "--json")
    report = json.loads(out)["sync"]
    assert (2, 1, False) == (report["add"], report["remove"], "add_ids" in report)

    code, out, _ = run(capsys, *words, "--yes")
    assert 0 == code
    assert "add\t2\nremove\t1\n" in out
    assert {"ann", "bob"} == cohorts_emulator.members_of("1a2bc3d")
    assert 4 == cohorts_emulator.spent


def test_sync_asks_and_takes_no_for_an_answer(
    cohorts_emulator: CohortsEmulator,
    capsys: Capture,
    ids: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """With nobody there to ask it refuses; one export is enough to ask."""
    cohorts_emulator.add_cohort("1a2bc3d", members=["ann", "eve"])
    code, _, err = run(capsys, "sync", "1a2bc3d", ids)

    assert 2 == code
    assert "pass --yes or --dry-run" in err
    assert 0 == cohorts_emulator.spent

    for answer, expected in (("n", {"ann", "eve"}), ("y", {"ann", "bob"})):
        stdin = io.StringIO(f"{answer}\n")
        monkeypatch.setattr(stdin, "isatty", lambda: True)
        monkeypatch.setattr(sys, "stdin", stdin)

        assert 0 == run(capsys, "sync", "1a2bc3d", ids)[0]
        assert expected == cohorts_emulator.members_of("1a2bc3d")

    assert 2 == cohorts_emulator.spent


def test_sync_guards_against_an_empty_list(
    cohorts_emulator: CohortsEmulator, capsys: Capture, tmp_path: Path
):
    """A file that came out empty does not empty a cohort."""
    file = tmp_path / "ids.txt"
    file.touch()
    cohorts_emulator.add_cohort("1a2bc3d", members=["ann", "eve", "zoe"])

    assert 2 == run(capsys, "sync", "1a2bc3d", file, "--yes")[0]
    assert 0 == cohorts_emulator.spent
    file.write_text("ann\n")
    assert 1 == run(capsys, "sync", "1a2bc3d", file, "--yes")[0]
    assert 3 == len(cohorts_emulator.members_of("1a2bc3d"))
    assert 0 == run(capsys, "sync", "1a2bc3d", file, "--yes", "--max-removed", 1)[0]
    assert {"ann"} == cohorts_emulator.members_of("1a2bc3d")


@pytest.mark.parametrize("is_asked", [False, True])
def test_a_refused_sync_says_how_to_use_its_export(
    cohorts_emulator: CohortsEmulator,
    capsys: Capture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_asked: bool,
):
    """Two commands, as text and as JSON: together they sync, and spend no export."""
    file = tmp_path / "ids.txt"
    file.write_text("ann\n")
    monkeypatch.chdir(tmp_path)
    long_ago = {"lastComputed": 1_760_000_000, "lastMod": 1_760_000_000}
    cohorts_emulator.add_cohort(
        "1a2bc3d", members=["ann", "eve", "zoe"], overrides=long_ago
    )
    words = ("sync", "1a2bc3d", "ids.txt", *([] if is_asked else ["--yes"]))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: is_asked, raising=False)

    code, _, err = run(capsys, *words)
    save, again = (line.split()[3:] for line in err.splitlines()[-2:])
    assert (1, True) == (code, "at least 2 of the 3" in err)
    assert "dry_run" not in err

    error = json.loads(run(capsys, *words, "--json")[2])["error"]
    assert error["token"]
    assert [save[0], again[0]] == [line.split()[1] for line in error["resume"]]
    # The second sync goes on with the export of the first, unless that one showed
    # what it would do and asked: a dry run that returned is done.
    spent = 2 if is_asked else 1
    assert spent == cohorts_emulator.spent

    assert 0 == run(capsys, *save)[0]
    assert 1 == run(capsys, *again)[0]
    assert 0 == run(capsys, *again, "--yes", "--max-removed", 1)[0]
    assert {"ann"} == cohorts_emulator.members_of("1a2bc3d")
    assert spent == cohorts_emulator.spent


@pytest.mark.usefixtures("project")
def test_a_replacement_of_an_unknown_cohort_is_no_wrong_usage(
    cohorts_emulator: CohortsEmulator, capsys: Capture, ids: Path
):
    """The list was asked, and does not show unpublished ones: it may exist."""
    words = ("upload", "B", ids, "--id-type", "user", "--replace", "nope", "--yes")
    code, _, err = run(capsys, *words)

    assert (1, True) == (code, "--max-removed 1 " in err)
    assert "max_removed" not in err


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("words", [["upload", "B"], ["members", "add", "1a2bc3d"]])
def test_refused_ids_are_shown(
    cohorts_emulator: CohortsEmulator,
    capsys: Capture,
    tmp_path: Path,
    words: list[str],
):
    """How many, the first few, and the option to leave out; JSON has the sample."""
    cohorts_emulator.add_cohort("1a2bc3d", members=["eve"])
    file = tmp_path / "ids.txt"
    file.write_text("\n".join(["ann", *(f"unknown-{number}" for number in range(7))]))
    words = [*words, file, "--id-type", "user", "--strict"]
    code, _, err = run(capsys, *words)
    error = json.loads(run(capsys, *words, "--json")[2])["error"]

    assert 1 == code
    assert "at least 7 of the ids" in err
    assert "unknown-0, unknown-1, unknown-2, unknown-3, unknown-4, ...;" in err
    assert "--strict" in err
    assert "skip_invalid_ids" not in err
    assert [f"unknown-{number}" for number in range(7)] == error["sample"]


@pytest.mark.usefixtures("project")
def test_ids_refused_half_way_are_shown(
    cohorts_emulator: CohortsEmulator,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    """What was written before is told as well."""
    monkeypatch.setattr(batches_module, "MOST_IDS", 2)
    cohorts_emulator.add_cohort("1a2bc3d", members=["eve"])
    file = tmp_path / "ids.txt"
    file.write_text("ann\nbob\nunknown-1\n" + "x" * 70)
    code, _, err = run(capsys, "members", "add", "1a2bc3d", file, "--strict")

    assert 7 == code
    assert "1 batches are written to cohort 1a2bc3d" in err
    assert "unknown-1" in err
    assert "x" * 61 not in err


@pytest.mark.parametrize("on_disk", [[], ["--on-disk"]])
def test_diff_writes_three_files(
    cohorts_emulator: CohortsEmulator,
    capsys: Capture,
    ids: Path,
    tmp_path: Path,
    on_disk: list[str],
):
    """A saved export against a list; the names are those people know."""
    export = tmp_path / "members.csv.gz"
    cohorts_emulator.add_cohort("1a2bc3d", members=["ann", "eve", ("1", None)])
    run(capsys, "export", "1a2bc3d", "-o", export)
    folder = tmp_path / "diff"
    code, out, _ = run(capsys, "diff", export, ids, "-o", folder, "--json", *on_disk)

    assert 0 == code
    unnameable = {"unnameable": 1, "unnameable_a": 1, "unnameable_b": 0}
    assert {"entering": 2, "exiting": 1, "existing": 1, **unnameable} == (
        json.loads(out)["diff"]
    )
    assert {"unknown-1", "bob"} == set((folder / "entering.txt").read_text().split())
    assert "eve\n" == (folder / "exiting.txt").read_text()
    assert "ann\n" == (folder / "existing.txt").read_text()
    assert {"entering.txt", "existing.txt", "exiting.txt"} == {
        path.name for path in folder.iterdir()
    }
    assert "entering\t2\n" in run(capsys, "diff", export, ids, "-o", folder)[1]


@pytest.mark.usefixtures("project")
def test_upload_takes_a_column_of_a_table(
    cohorts_emulator: CohortsEmulator, capsys: Capture, tmp_path: Path
):
    """Named by an option, which an upload without it tells of."""
    table = tmp_path / "users.csv"
    table.write_text("user_id,age\nann,1\nbob,2\n")
    words = ("upload", "Buyers", table, "--id-type", "user")
    refusal = run(capsys, *words)
    code, _, _ = run(capsys, *words, "--column", "user_id")
    (cohort_id,) = cohorts_emulator.cohort_ids

    assert 2 == refusal[0]
    assert "--column" in refusal[2]
    assert 0 == code
    assert {"ann", "bob"} == cohorts_emulator.members_of(cohort_id)


def test_a_column_of_stdin_is_refused(capsys: Capture):
    """Stdin has one id a line."""
    words = ("members", "add", "c1", "-", "--column", "user_id")
    code, _, err = run(capsys, *words)

    assert 2 == code
    assert "--column needs a file" in err


@pytest.mark.usefixtures("project")
def test_a_second_cohort_of_a_name_is_told(
    cohorts_emulator: CohortsEmulator, capsys: Capture, ids: Path
):
    """Each upload makes one; who did not want that reads what to type."""
    words = ("upload", "Buyers", ids, "--id-type", "user")
    assert "of this name" not in run(capsys, *words)[2]
    code, _, err = run(capsys, *words)
    first, _ = cohorts_emulator.cohort_ids

    assert 0 == code
    assert f"--replace {first}" in err
    assert "" == run(capsys, *words, "--quiet")[2]


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("answer", ["n\n", "y\n"])
def test_a_terminal_is_asked_before_a_second_cohort_of_a_name(
    cohorts_emulator: CohortsEmulator,
    capsys: Capture,
    ids: Path,
    monkeypatch,
    answer: str,
):
    """Whoever says no has made none."""
    words = ("upload", "Buyers", ids, "--id-type", "user")
    run(capsys, *words)
    typed = io.StringIO(answer)
    monkeypatch.setattr(typed, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", typed)
    code, _, err = run(capsys, *words)

    count = 2 if answer.startswith("y") else 1

    assert "Make another one?" in err
    assert (2 - count, count) == (code, len(cohorts_emulator.cohort_ids))


def test_diff_tells_of_each_file_whom_it_cannot_name(
    cohorts_emulator: CohortsEmulator, capsys: Capture, tmp_path: Path
):
    """Which of the two has them."""
    cohorts_emulator.add_cohort("one", members=["ann", ("1", None), ("2", None)])
    cohorts_emulator.add_cohort("two", members=["ann", ("3", None)])
    files = [tmp_path / f"{name}.csv" for name in ("one", "two")]
    for file in files:
        run(capsys, "export", file.stem, "-o", file)
    _, out, _ = run(capsys, "diff", *files, "-o", tmp_path)

    assert "without a valid id, in A\t2\nwithout a valid id, in B\t1\n" in out
