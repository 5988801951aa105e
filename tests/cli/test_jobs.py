"""The command keeps a record of what was spent, and goes on with what was left."""

from __future__ import annotations

import json
import logging
import shlex
import stat
from pathlib import Path

import pytest

from amplitude_cohorts_async.cli import destination
from amplitude_cohorts_async.cli.log_lines import logged_on_stderr, silence_psycopg
from amplitude_cohorts_async.testing import CohortsEmulator

pytestmark = pytest.mark.slow


RECORD = {
    *("id", "cohort_id", "properties", "state", "is_open", "request_id"),
    *("requested_at", "token", "deliveries", "occurrence", "used", "label"),
    *("revision", "updated_at", "traceparent"),
}


@pytest.fixture(autouse=True)
def cohort(
    cohorts_emulator: CohortsEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cohort whose jobs take long, and an empty folder to be in."""
    cohorts_emulator.add_cohort("slow", members=["ann"], job_seconds=100)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def left(command) -> str:
    """The request id of an export that nobody waited for."""
    result = command("export", "slow", "-o", "out.csv", "--timeout", 20)

    return result.err.split()[3]


def listed(command, *options: str) -> list[dict[str, object]]:
    """The exports that the command lists."""
    return json.loads(command("jobs", *options, "--json").out)["jobs"]


def test_the_same_command_goes_on(command, cohorts_emulator, left: str):
    """It spends none, and says what it took up and what that cost."""
    code, out, err = command("export", "slow", "-o", "out.csv")
    adopted, spent = err.splitlines()

    assert (0, 1) == (code, cohorts_emulator.spent)
    assert out.startswith("out.csv: ")
    assert adopted.startswith("amplitude-cohorts: took up the export of ")
    assert adopted.endswith(f" UTC ({left}); --fresh for a new one")
    assert "amplitude-cohorts: no export spent, 499 left of the month" == spent


def test_the_same_command_says_so_as_json(command, left: str):
    """When the export was requested, what was spent, and what is left."""
    export = json.loads(command("export", "slow", "-o", "out.csv", "--json").out)
    facts = export["export"]

    assert (0, 499) == (facts["spent"], facts["remaining"])
    assert facts["requested_at"] == facts["adopted"] is not None


@pytest.mark.parametrize("options", [["--fresh"], ["--reuse-within", "0"]])
def test_a_fresh_one_can_be_asked_for(
    command, cohorts_emulator, left: str, options: list[str]
):
    """Then another one is spent."""
    assert 0 == command("export", "slow", "-o", "out.csv", *options).code
    assert 2 == cohorts_emulator.spent


def test_an_error_says_that_the_same_command_goes_on(command):
    """And how long that holds; the command with the id goes on elsewhere."""
    err = command("export", "slow", "-o", "out.csv", "--timeout", 20).err
    *_, spent, message, again, resume = err.splitlines()

    assert "amplitude-cohorts: 1 export spent" == spent
    assert message.endswith(f"`amplitude-cohorts resume {resume.split()[4]}`")
    assert again.startswith("To go on: the same command, before ")
    assert resume.startswith("To resume: amplitude-cohorts resume ")


def test_a_fresh_command_is_not_to_be_repeated_as_it_is(command):
    """With --fresh it would spend another one."""
    err = command("export", "slow", "--fresh", "--timeout", 20).err

    assert "To go on: the same command without --fresh, before " in err


def test_what_is_not_recorded_is_not_gone_on_with(command):
    """Without a record only the id goes on."""
    err = command("export", "slow", "--no-jobs", "--timeout", 20).err

    assert "To go on" not in err
    assert "To resume: amplitude-cohorts resume " in err


def test_an_occurrence_is_one_export(command, cohorts_emulator):
    """The same key is the same export, also for another file."""
    command("export", "slow", "-o", "a.csv", "--occurrence", "today")
    result = command("export", "slow", "-o", "b.csv", "--occurrence", "today")

    assert (0, 1) == (result.code, cohorts_emulator.spent)
    assert Path("a.csv").read_text() == Path("b.csv").read_text()


def test_the_unchanged_file_is_left_alone(command, cohorts_emulator):
    """--skip-unchanged works for one file as for a directory."""
    command("export", "slow", "-o", "out.csv")
    code, out, _ = command("export", "slow", "-o", "out.csv", "--skip-unchanged")

    assert (0, "out.csv: unchanged, no export spent\n") == (code, out)
    assert 1 == cohorts_emulator.spent


def test_no_file_is_replaced_if_not_wanted(command, cohorts_emulator):
    """--no-clobber spends nothing."""
    Path("out.csv").write_text("mine")

    assert 2 == command("export", "slow", "-o", "out.csv", "--no-clobber").code
    assert ("mine", 0) == (Path("out.csv").read_text(), cohorts_emulator.spent)


def test_a_manifest_is_written(command):
    """Beside the file, if it is asked for."""
    command("export", "slow", "-o", "out.csv", "--manifest")

    assert Path("out.csv.manifest.json").exists()


def test_stdout_goes_on_with_its_export(command, cohorts_emulator):
    """As a file does."""
    late = command("export", "slow", "-o", "-", "--timeout", 20)
    code, out, err = command("export", "slow", "-o", "-")

    assert (7, "", 0, 1) == (late.code, late.out, code, cohorts_emulator.spent)
    assert '"amplitude_id","user_id"' == out.splitlines()[0]
    assert "took up the export of " in err
    assert "no export spent, 499 left of the month" in err


@pytest.mark.parametrize("kind", ["xml", "parquet"])
def test_stdout_checks_its_format_before_it_spends(
    command, cohorts_emulator, monkeypatch: pytest.MonkeyPatch, kind: str
):
    """One that is unknown, or whose extra is missing."""
    monkeypatch.setattr(destination, "find_spec", lambda _: None)

    assert 2 == command("export", "slow", "-o", "-", "--format", kind).code
    assert 0 == cohorts_emulator.spent


def test_a_sync_goes_on_with_its_export(command, cohorts_emulator):
    """What failed before a write is repeated, and spends none."""
    Path("ids.txt").write_text("bob\n")
    refused = command("sync", "slow", "ids.txt", "--yes")
    code, _, err = command("sync", "slow", "ids.txt", "--yes", "--max-removed", 1)

    assert (1, 0, 1) == (refused.code, code, cohorts_emulator.spent)
    assert "took up the export of " in err
    assert "no export spent, 499 left of the month" in err


def test_a_dry_run_says_how_to_sync_without_another_export(command, cohorts_emulator):
    """Its export is delivered; the two lines save it, and sync with it."""
    Path("ids.txt").write_text("ann\nbob\n")
    options = ["--dry-run", "--max-removed", 1]
    err = command("sync", "slow", "ids.txt", *options).err
    found = json.loads(command("sync", "slow", "ids.txt", *options, "--json").out)
    *_, resume, again = [
        shlex.split(line.partition(": ")[2]) for line in err.splitlines()
    ]
    *_, first, second = err.splitlines()

    assert first.startswith("To sync without another export: amplitude-cohorts resume ")
    assert second.startswith("And then: amplitude-cohorts sync ")
    assert "To resume" not in err
    assert 2 == len(found["sync"]["resume"])
    assert "--dry-run" not in again
    assert 0 == command(*resume[1:]).code
    assert 0 == command(*again[1:], "--yes").code
    assert 2 == cohorts_emulator.spent
    assert "And then" not in command(*again[1:], "--dry-run").err


def test_a_sync_says_as_json_what_it_spent(command):
    """As an export does."""
    Path("ids.txt").write_text("ann\n")
    report = json.loads(command("sync", "slow", "ids.txt", "--yes", "--json").out)
    facts = report["sync"]

    assert (1, 499, None) == (facts["spent"], facts["remaining"], facts["adopted"])


def test_a_fresh_sync_spends_another(command, cohorts_emulator):
    """--fresh takes nothing up."""
    Path("ids.txt").write_text("bob\n")
    command("sync", "slow", "ids.txt", "--yes")
    command("sync", "slow", "ids.txt", "--dry-run", "--fresh")

    assert 2 == cohorts_emulator.spent


def test_exports_are_listed(command, left: str):
    """One line each, with TABs."""
    code, out, err = command("jobs", "list")
    (line,) = out.splitlines()
    request_id, cohort_id, state, is_open, *_, target = line.split("\t")

    assert (0, "") == (code, err)
    assert (left, "slow", "requested", "yes") == (request_id, cohort_id, state, is_open)
    assert str(Path("out.csv").absolute()) == target


def test_the_list_says_what_was_delivered(command):
    """A file is saved, a stream is read: neither is only ready. JSON has the state."""
    Path("ids.txt").write_text("ann\n")
    command("export", "slow", "-o", "out.csv")
    command("sync", "slow", "ids.txt", "--yes")
    lines = [line.split("\t") for line in command("jobs").out.splitlines()]
    records = json.loads(command("jobs", "--json").out)["jobs"]

    assert ["read", "a stream (no file)"] == lines[0][2::3]
    assert ["saved", str(Path("out.csv").absolute())] == lines[1][2::3]
    assert ["ready", "ready"] == [each["state"] for each in records]


def test_exports_are_listed_as_json(command, left: str):
    """The shape of a record's JSON holds."""
    document = json.loads(command("jobs", "--json").out)
    (record,) = document["jobs"]

    assert (2, RECORD, left) == (document["version"], set(record), record["request_id"])


def test_options_stand_behind_their_command(command):
    """In front of it they would be lost without a word."""
    assert 2 == command("jobs", "--json", "run").code
    assert 2 == command("jobs", "--open", "list").code


def test_open_ones_alone_can_be_listed(command, left: str):
    """What was delivered is left out."""
    assert 1 == len(listed(command, "--open"))
    command("export", "slow", "-o", "out.csv")
    assert [] == listed(command, "--open")
    assert 1 == len(listed(command))


@pytest.mark.parametrize(
    "words",
    [["resume"], ["jobs", "resume"], ["jobs", "resume", "--last"]],
    ids=" ".join,
)
def test_the_last_open_one_is_resumed(
    command, cohorts_emulator, left: str, words: list[str]
):
    """Without its id, to the file that it was meant for."""
    assert 0 == command(*words).code
    assert Path("out.csv").exists()
    assert 1 == cohorts_emulator.spent
    assert [] == listed(command, "--open")


@pytest.mark.parametrize("words", [["resume"], ["jobs", "resume"]], ids=" ".join)
def test_a_named_one_is_resumed(command, left: str, words: list[str]):
    """By the id that an error shows; then nothing is open."""
    assert 0 == command(*words, left).code
    assert Path("out.csv").exists()
    assert [] == listed(command, "--open")


@pytest.mark.parametrize("words", [["resume"], ["jobs", "resume"]], ids=" ".join)
def test_what_was_delivered_is_not_brought_unasked(
    command, left: str, words: list[str]
):
    """Where it is, is said; another copy needs a name, and no file is replaced."""
    command("jobs", "resume", left)
    Path("slow.csv").write_text("precious")
    Path("out.csv").write_text("mine")
    code, out, err = command(*words, left)

    assert (2, "") == (code, out)
    place = Path("out.csv").absolute()
    assert f"export {left} of cohort slow was delivered to {place}; pass -o" in err
    assert ["precious", "mine"] == [
        Path(name).read_text() for name in ("slow.csv", "out.csv")
    ]
    assert 0 == command(*words, left, "-o", "copy.csv").code


def test_no_file_is_replaced_that_nobody_named(command):
    """An export that was meant for no file is not put over one."""
    Path("ids.txt").write_text("bob\n")
    command("sync", "slow", "ids.txt", "--yes")
    Path("slow.csv").write_text("precious")
    code, _, err = command("resume")

    assert 2 == code
    assert "slow.csv exists" in err
    assert "precious" == Path("slow.csv").read_text()
    assert 0 == command("resume", "-o", "slow.csv").code


def test_what_was_delivered_is_not_put_aside(command, left: str):
    """Nothing of it is left."""
    command("jobs", "resume", left)
    code, _, err = command("jobs", "park", left)

    assert 2 == code
    assert "nothing is left to put aside" in err
    assert ["ready"] == [each["state"] for each in listed(command)]


def test_another_file_may_be_named(command, left: str):
    """-o is stronger than what was meant."""
    assert 0 == command("jobs", "resume", left, "-o", "b.csv").code
    assert ["b.csv"] == [path.name for path in Path().iterdir()]


def test_without_a_file_one_has_to_be_named(command, cohorts_emulator):
    """A sync's export goes into no file."""
    Path("ids.txt").write_text("bob\n")
    command("sync", "slow", "ids.txt", "--yes")
    code, _, err = command("jobs", "resume")

    assert 2 == code
    assert "pass -o FILE" in err
    assert 0 == command("jobs", "resume", "-o", "current.csv").code
    assert Path("current.csv").exists()


@pytest.mark.parametrize(
    "words",
    [["resume"], ["jobs", "resume"], ["jobs", "resume", "nope"], ["jobs", "park", "x"]],
    ids=" ".join,
)
def test_nothing_to_resume_is_said(command, words: list[str]):
    """With the code of what is not found."""
    code, out, err = command(*words)

    assert (4, "", 1) == (code, out, len(err.splitlines()))


@pytest.mark.parametrize("words", [["resume", "--all"], ["run"]], ids=" ".join)
def test_all_that_was_left_is_brought(
    command, cohorts_emulator, left: str, words: list[str]
):
    """To the files they were meant for; none is spent."""
    code, out, _ = command("jobs", *words)

    assert (0, 1) == (code, cohorts_emulator.spent)
    assert f"{Path('out.csv').absolute()}: " in out
    assert Path("out.csv").exists()


def test_a_run_as_json(command, left: str):
    """The shape is that of many exports, and whether something is still open."""
    document = json.loads(command("jobs", "run", "--json").out)

    assert (2, False) == (document["version"], document["open"])
    assert ["slow"] == [each["cohort_id"] for each in document["exports"]]


@pytest.mark.parametrize("words", [["resume", "--all"], ["run"]], ids=" ".join)
def test_a_run_says_what_it_cannot_finish(command, words: list[str]):
    """What to type is named for each; the run itself is done with what it can do."""
    Path("ids.txt").write_text("bob\n")
    command("sync", "slow", "ids.txt", "--yes")
    (record,) = listed(command)
    name = record["request_id"]
    code, out, err = command("jobs", *words)

    assert (0, "") == (code, out)
    assert f"export {name} of cohort slow is open, and was meant for a stream" in err
    assert f"`amplitude-cohorts jobs resume {name} -o FILE`" in err
    assert f"`amplitude-cohorts jobs park {name}`" in err
    assert f"`amplitude-cohorts jobs forget {name}`" in err


def test_a_run_leaves_what_a_newer_export_replaced(
    command, cohorts_emulator, left: str
):
    """An older export never replaces the file of a newer one: that is said."""
    command("export", "slow", "-o", "out.csv", "--fresh")
    before = Path("out.csv").stat()
    code, _, err = command("jobs", "run")
    document = json.loads(command("jobs", "run", "--json").out)

    assert 0 == code
    assert (
        f"export {left} of cohort slow is open, and a newer export has the place" in err
    )
    assert before == Path("out.csv").stat()
    assert ([left], False) == (
        [each["request_id"] for each in document["left"]],
        document["open"],
    )


def test_a_run_leaves_what_another_cohort_replaced(
    command, cohorts_emulator, left: str
):
    """The file is the later call's, whatever its cohort."""
    cohorts_emulator.add_cohort("other", members=["bob"])
    command("export", "other", "-o", "out.csv")
    code, _, err = command("jobs", "run")

    assert 0 == code
    assert (
        f"export {left} of cohort slow is open, and a newer export has the place" in err
    )
    assert "bob" in Path("out.csv").read_text()


def test_what_was_brought_elsewhere_is_not_told_of(command):
    """A stream that was resumed into a file needs nobody any more."""
    Path("ids.txt").write_text("bob\n")
    command("sync", "slow", "ids.txt", "--yes")
    command("jobs", "resume", "-o", "current.csv")

    assert "amplitude-cohorts: no export is open\n" == command("jobs", "run").err


def test_what_is_parked_waits_to_be_named(command, cohorts_emulator, left: str):
    """Nobody takes it up before that."""
    parked = command("jobs", "park", left)

    assert (0, "parked") == (parked.code, parked.out.split("\t")[2])
    assert 4 == command("jobs", "resume", "--last").code
    assert 0 == command("jobs", "run").code
    assert not Path("out.csv").exists()
    assert 0 == command("jobs", "resume", left).code
    assert Path("out.csv").exists()
    assert 1 == cohorts_emulator.spent


def test_what_may_be_paid_for_is_not_forgotten_unasked(
    command, cohorts_emulator, left: str
):
    """--yes is the answer where nobody can be asked; then another one is spent."""
    code, _, err = command("jobs", "forget", left)

    assert 2 == code
    assert f"export {left} of cohort slow is spent, and was not delivered: " in err
    assert "--yes" in err
    assert 1 == len(listed(command))
    assert 0 == command("jobs", "forget", left, "--yes").code
    assert [] == listed(command)
    command("export", "slow", "-o", "out.csv")
    assert 2 == cohorts_emulator.spent


def test_what_is_delivered_is_forgotten_at_once(command, left: str):
    """Nothing is lost with it; of one that went to two files, both count."""
    command("jobs", "resume", left, "-o", "b.csv")
    code, _, err = command("jobs", "forget", left)
    assert 2 == code
    assert f"and was not delivered to {Path('out.csv').absolute()}: " in err
    command("jobs", "resume", left)

    assert 0 == command("jobs", "forget", left).code


ABOUT_RECORDS = [
    ["jobs"],
    ["jobs", "list"],
    ["jobs", "run"],
    ["jobs", "resume"],
    ["jobs", "resume", "--all"],
    ["jobs", "park", "x"],
    ["jobs", "forget", "x"],
]


@pytest.mark.parametrize("words", ABOUT_RECORDS, ids=" ".join)
@pytest.mark.parametrize("named", ["option", "variable"])
def test_a_named_record_has_to_be_there(
    command, monkeypatch: pytest.MonkeyPatch, words: list[str], named: str
):
    """A slip in its name is no empty record; nothing is made."""
    options = ["--jobs", "typo.db"] if named == "option" else []
    if not options:
        # What may be a URL with a password is not quoted.
        monkeypatch.setenv("AMPLITUDE_JOBS", "redis:/:hunter2@host")
    code, out, err = command(*words, *options)
    name = "typo.db" if options else "the file in AMPLITUDE_JOBS"

    assert (4, "") == (code, out)
    assert f"{name} does not exist: nothing was recorded there" in err
    assert "hunter2" not in err
    assert [] == list(Path().iterdir())


@pytest.mark.parametrize("words", ABOUT_RECORDS, ids=" ".join)
def test_without_a_record_nothing_is_open(command, data_folder: Path, words: list[str]):
    """That is said, and no record is made of it; who names an export has no luck."""
    code, out, err = command(*words)

    assert (4 if "x" in words or words[1:] == ["resume"] else 0, "") == (code, out)
    assert "amplitude-cohorts: no export is open\n" == err
    assert not data_folder.exists()


def test_without_a_record_json_is_empty(command):
    """Of the same shape as with one."""
    assert [] == listed(command)
    assert {"version": 2, "exports": [], "open": False, "left": []} == json.loads(
        command("jobs", "run", "--json").out
    )


@pytest.mark.posix
def test_the_record_is_for_its_user_alone(command, data_folder: Path, left: str):
    """It is in the platform's folder for data, which others cannot read."""
    assert 0o700 == stat.S_IMODE(data_folder.stat().st_mode)
    assert (data_folder / "exports.db").exists()


@pytest.mark.parametrize("name", ["option", "variable"])
def test_another_place_can_be_named(
    command, data_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    """By an option or in the environment; then nothing is in the usual place."""
    options = ["--jobs", "mine.db"] if name == "option" else []
    if not options:
        monkeypatch.setenv("AMPLITUDE_JOBS", "mine.db")
    err = command("export", "slow", "-o", "a.csv", "--timeout", 20, *options).err

    assert Path("mine.db").exists()
    assert not (data_folder / "exports.db").exists()
    assert bool(options) == err.splitlines()[-1].endswith(" --jobs mine.db")


def test_a_record_that_cannot_be_written_spends_nothing(
    command, cohorts_emulator, monkeypatch: pytest.MonkeyPatch
):
    """The message names the options that help; what reads goes on."""
    Path("home").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(Path("home").absolute()))
    code, _, err = command("export", "slow")

    assert (1, 0) == (code, cohorts_emulator.spent)
    assert "--no-jobs" in err
    assert 0 == command("list").code
    assert 0 == command("export", "slow", "--no-jobs").code


def test_a_limiter_of_a_file_has_the_record(
    process, data_folder: Path, cohorts_emulator
):
    """The library's calls beside it use the same, so there is none of the command's."""
    other = {"AMPLITUDE_LIMITER_URL": f"sqlite:///{Path('own.db').absolute()}"}
    cohorts_emulator.add_cohort("c1", members=["ann"])

    assert 0 == process("export", "c1", "-o", "a.csv", env=other).wait()
    assert Path("own.db.jobs").exists()
    assert not (data_folder / "exports.db").exists()

    assert 0 == process("export", "c1", "-o", "b.csv").wait()
    assert (data_folder / "exports.db").exists()
    assert not (data_folder / "limits.db.jobs").exists()


def test_the_commands_of_a_machine_share_the_limits(
    process, data_folder: Path, cohorts_emulator
):
    """In a file beside the record, unless the environment names a limiter."""
    other = {"AMPLITUDE_LIMITER_URL": f"sqlite:///{Path('own.db').absolute()}"}

    assert 0 == process("list", env=other).wait()
    assert not (data_folder / "limits.db").exists()
    assert 0 == process("list").wait()
    assert (data_folder / "limits.db").exists()


def test_warnings_of_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    """As lines of the command, while it runs."""
    logger = logging.getLogger("amplitude_cohorts_async.any")

    with logged_on_stderr():
        logger.info("nobody asked")
        logger.warning("the store is %s", "new")
    logger.warning("later")

    assert "amplitude-cohorts: the store is new\n" == capsys.readouterr().err


def test_warnings_of_psycopg(capsys: pytest.CaptureFixture[str]) -> None:
    """Are not printed, and however often that is said leaves one handler."""
    logger = logging.getLogger("psycopg.pool")
    before = list(logger.handlers)

    for _ in range(3):
        silence_psycopg()
    logger.warning("error connecting")

    assert len({*before, *logger.handlers}) <= len(before) + 1
    assert not capsys.readouterr().err
