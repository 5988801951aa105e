"""The command brings files: export, resume."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.cli import main
from amplitude_cohorts_async.models import SavedExport
from amplitude_cohorts_async.testing import CohortsEmulator
from amplitude_cohorts_async.testing.faults import cut_off

if TYPE_CHECKING:
    from support.buckets import Bucket

EXPORT = {
    "adopted",
    "downloaded",
    "links",
    "location",
    "path",
    "remaining",
    "requested_at",
    "rows",
    "sha256",
    "size",
    "spent",
    "token",
    "unchanged",
}


@pytest.fixture(autouse=True)
def cohorts(
    cohorts_emulator: CohortsEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two cohorts, and an empty folder to be in."""
    properties = {"plan": ["free", "team"]}
    cohorts_emulator.add_cohort("c1", members=["ann", "bob"], properties=properties)
    cohorts_emulator.add_cohort("c2", members=["eve"])
    monkeypatch.chdir(tmp_path)


def test_export_saves_and_says_so_in_a_line(command):
    """The file is whole, the line names it, and stderr names what was spent."""
    code, out, err = command("export", "c1", "-o", "members.csv")

    assert 0 == code
    requested, spent = err.splitlines()
    assert re.fullmatch(
        r"amplitude-cohorts: requested export \w+ of cohort c1", requested
    )
    assert "amplitude-cohorts: 1 export spent, 499 left of the month" == spent
    assert out.startswith("members.csv: ")
    assert 3 == len(Path("members.csv").read_text().splitlines())


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_reader_may_take_the_file_at_once(
    command, monkeypatch: pytest.MonkeyPatch, options: list[str]
):
    """The export is done; only its digest is not known any more."""
    export = CohortsClient.export

    async def taken(*args: object, **options: object) -> SavedExport:
        """Export, and be a reader that waits for the file."""
        saved = await export(*args, **options)
        await asyncio.to_thread(saved.path.unlink)
        return saved

    monkeypatch.setattr(CohortsClient, "export", taken)

    code, out, err = command("export", "c1", "-o", "members.csv", *options)

    assert 0 == code
    assert "1 export spent" in err or json.loads(out)["export"]["spent"]
    assert "members.csv" in out


def test_export_names_the_file_after_the_cohort(command):
    """Without -o the file is ID.csv here, or of the format that is asked for."""
    command("export", "c1")
    command("export", "c1", "--format", "csv.gz")

    assert Path("c1.csv").exists()
    assert b"\x1f\x8b" == Path("c1.csv.gz").read_bytes()[:2]


@pytest.mark.parametrize("option", ["--quiet", "--json"])
def test_the_requested_export_is_not_named_if_not_wanted(command, option: str):
    """Scripts that read stderr get nothing but an error."""
    assert "" == command("export", "c1", option).err


@pytest.mark.parametrize(
    ("options", "header"),
    [
        ([], '"amplitude_id","user_id"'),
        (["--property", "plan"], '"amplitude_id","user_id","plan"'),
        (["--properties"], '"amplitude_id","user_id","plan"'),
    ],
)
def test_export_asks_for_properties(command, options: list[str], header: str):
    """Some by name, or all of them."""
    command("export", "c1", "-o", "out.csv", *options)

    assert header == Path("out.csv").read_text().splitlines()[0]


def test_export_as_json(command):
    """The shape of an export's JSON holds."""
    document = json.loads(command("export", "c1", "--json").out)

    assert (2, EXPORT) == (document["version"], set(document["export"]))
    assert "c1.csv" == document["export"]["path"]


def test_the_command_to_go_on_works(command, cohorts_emulator):
    """What an error says to type brings the file, and spends no second export."""
    cohorts_emulator.add_cohort("slow", members=["ann"], job_seconds=100)
    err = command("export", "slow", "-o", "a b.csv", "--timeout", 20).err
    words = shlex.split(err.splitlines()[-1].removeprefix("To resume: "))

    assert ["amplitude-cohorts", "resume"] == words[:2]
    assert 0 == command(*words[1:]).code
    assert Path("a b.csv").exists()
    assert 1 == cohorts_emulator.spent


def test_the_command_to_go_on_asks_the_same_service(
    command, cohorts_emulator, monkeypatch: pytest.MonkeyPatch
):
    """Options that said whom to ask are part of it."""
    cohorts_emulator.add_cohort("slow", members=["ann"], job_seconds=100)
    monkeypatch.setenv("AMPLITUDE_BASE_URL", "http://127.0.0.1:1")
    url = cohorts_emulator.base_url
    err = command("export", "slow", "--timeout", 20, "--base-url", url).err

    assert f"-o slow.csv --base-url {url}" in err


def test_an_error_as_json_has_the_token(command, cohorts_emulator):
    """The shape of an error's JSON holds; its token goes on as well."""
    cohorts_emulator.add_cohort("slow", members=["ann"], job_seconds=100)
    code, out, err = command("export", "slow", "--timeout", 20, "--json")
    document = json.loads(err)
    error = document["error"]

    assert (7, "") == (code, out)
    assert {"again", "code", "type", "message", "token", "resume"} == set(error)
    assert (2, 7) == (document["version"], error["code"])
    assert "ExportTimeoutError" == error["type"]
    assert 0 == command("resume", error["token"]).code
    assert Path("slow.csv").exists()


def test_a_failed_job_is_not_to_be_gone_on_with(command, cohorts_emulator):
    """Where only another export helps, no command is told that cannot."""
    code, _, err = command("resume", "nope", "-o", "out.csv")

    assert 4 == code
    assert "To resume" not in err


def test_resume_checks_its_target_before_it_waits(command, cohorts_emulator):
    """A bad target fails before the first byte."""
    assert 2 == command("resume", "abc", "-o", "out.xyz").code
    assert [] == cohorts_emulator.log


@pytest.mark.posix
def test_new_files_have_the_mode_that_was_asked_for(command, cohorts_emulator):
    """
    --file-mode is octal, for one file, for many, and for the command that goes on.
    """
    cohorts_emulator.add_cohort("slow", members=["ann"], job_seconds=100)
    command("export", "c1", "--file-mode", "640")
    command("export", "c1", "c2", "-o", ".", "--file-mode", "0604")
    words = shlex.split(
        command("export", "slow", "--file-mode", 400, "--timeout", 20)
        .err.splitlines()[-1]
        .removeprefix("To resume: amplitude-cohorts ")
    )
    command(*words)

    assert [0o640, 0o604, 0o400] == [
        stat.S_IMODE(Path(f"{name}.csv").stat().st_mode)
        for name in ("c1", "c2", "slow")
    ]


def test_many_go_into_a_directory(command):
    """Several cohorts, one file and one line each."""
    Path("out").mkdir()
    code, out, err = command("export", "c1", "c2", "-o", "out")

    assert (0, "amplitude-cohorts: 2 exports spent, 498 left of the month\n") == (
        code,
        err,
    )
    assert ["out/c1.csv", "out/c2.csv"] == sorted(
        line.partition(":")[0] for line in out.splitlines()
    )


@pytest.mark.services
def test_an_object_of_a_bucket(command, bucket: Bucket):
    """Its address stands where a file has its path, in what is printed and in JSON."""
    address = bucket.address("a/members.csv")

    code, out, _ = command("export", "c1", "-o", address)

    assert (0, f"{address}: ") == (code, out[: len(address) + 2])
    assert b"ann" in (bucket.read("a/members.csv") or b"")

    _, out, _ = command("export", "c1", "-o", address, "--json")
    assert address == json.loads(out)["export"]["location"]


def test_a_signed_address_is_refused(command, cohorts_emulator: CohortsEmulator):
    """It is not shown, and nothing is spent."""
    code, out, err = command(
        "export", "c1", "-o", "s3://b/c.csv?X-Amz-Signature=5ec2e7"
    )

    assert 2 == code
    assert "5ec2e7" not in out + err
    assert 0 == cohorts_emulator.spent


def test_many_as_json(command):
    """The shape of many exports' JSON holds; one failure stops nobody."""
    code, out, _ = command("export", "c1", "nope", "--json")
    document = json.loads(out)
    exports = {each["cohort_id"]: each for each in document["exports"]}

    assert (4, 2) == (code, document["version"])
    assert {"cohort_id", "saved", "error", "spent"} == set(exports["c1"])
    assert EXPORT - {"adopted", "remaining"} == set(exports["c1"]["saved"])
    assert "NotFoundError" == exports["nope"]["error"]["type"]
    assert exports["nope"]["saved"] is None


def test_many_that_failed_unspent_have_nothing_to_go_on_with(command):
    """The same command again would spend an export for each file that was saved."""
    _, out, err = command("export", "c1", "nope", "-p", "plan")

    assert 1 == len(out.splitlines())
    assert "cohort nope: " in err
    assert "To resume" not in err


@pytest.mark.slow
def test_many_go_on_with_what_was_spent_and_not_saved(command, cohorts_emulator):
    """A command for each such cohort, as text and as JSON; it spends no export."""
    cohorts_emulator.add_cohort("s/w", members=["ann"], job_seconds=300)
    words = ("export", "c1", "s/w", "nope", "-o", ".", "--timeout", 50)
    *_, last = command(*words).err.splitlines()
    assert re.fullmatch(r"To resume: amplitude-cohorts resume \w+ -o s%2Fw\.csv", last)

    again = json.loads(command(*words, "--json").out)["exports"]
    hints = {each["cohort_id"]: (each["error"] or {}).get("resume") for each in again}
    spent = cohorts_emulator.spent

    assert [last.removeprefix("To resume: ")] == hints.pop("s/w")
    assert {"c1": None, "nope": []} == hints
    assert 0 == command(*last.split()[3:]).code
    assert Path("s%2Fw.csv").exists()
    assert spent == cohorts_emulator.spent


def test_many_into_a_file_need_a_directory(command):
    """The message says so, instead of asking for a directory of the file's name."""
    assert "several cohorts need -o with a directory" in (
        command("export", "c1", "c2", "-o", "m2.csv").err
    )


def test_the_unchanged_is_left_alone(command, cohorts_emulator):
    """--skip-unchanged spends nothing on a cohort whose file is here already."""
    # What changed within the second of an export counts as changed since.
    cohorts_emulator.clock.advance(60)
    command("export", "c1", "c2", "-o", ".")
    code, out, _ = command("export", "c1", "-o", ".", "--skip-unchanged")

    assert (0, "c1.csv: unchanged, no export spent\n") == (code, out)
    assert 2 == cohorts_emulator.spent


@pytest.mark.parametrize(
    "words",
    [
        ("c1", "--fresh", "--reuse-within", "60"),
        ("c1", "--jobs", "a.db", "--no-jobs"),
        ("c1", "--skip-unchanged", "--no-jobs"),
        ("c1", "--occurrence", "today", "--fresh"),
        ("c1", "--jobs", "redis://:secret@127.0.0.1/0"),
        ("c1", "--jobs", "sqlite:///a.db?mode=ro"),
        ("c1", "c2", "--occurrence", "today"),
        ("c1", "-o", "-", "--manifest"),
        ("c1", "--property", "plan", "--properties"),
        ("c1", "-o", "missing/out.csv"),
        ("c1", "-o", "out"),
        ("c1", "--format", "xml"),
        ("c1", "--file-mode", "rw"),
        ("c1", "--file-mode", "1000"),
        ("c1", "c2", "--max-concurrency", "0"),
        (),
    ],
)
def test_bad_input_sends_nothing(command, cohorts_emulator, words: tuple[str, ...]):
    """A line on stderr, exit code 2, and not a byte to the service."""
    code, out, err = command("export", *words)

    assert (2, "", 1) == (code, out, len(err.splitlines()))
    assert [] == cohorts_emulator.log


def test_a_cut_connection_is_made_good(command, cohorts_emulator):
    """The file is whole all the same, and its line tells of two links."""
    cohorts_emulator.add_cohort("big", size=5_000)
    cohorts_emulator.fail_next("store", cut_off(at=1_000))

    assert "over 2 links" in command("export", "big").out


@pytest.mark.parametrize("kind", ["csv", "csv.gz"])
@pytest.mark.usefixtures("no_waiting")
def test_export_to_stdout(capfdbinary: pytest.CaptureFixture[bytes], kind: str):
    """The dash of other commands: the file and nothing else goes to stdout."""
    main(["export", "c1", "-o", "saved", "--format", kind])
    capfdbinary.readouterr()

    assert 0 == main(["export", "c1", "-o", "-", "--format", kind])
    assert Path("saved").read_bytes() == capfdbinary.readouterr().out
    assert ["saved"] == [path.name for path in Path().iterdir()]


@pytest.mark.usefixtures("no_waiting")
def test_resume_to_stdout(cohorts_emulator, capfdbinary):
    """The command that goes on says the dash again."""
    cohorts_emulator.add_cohort("slow", members=["ann"], job_seconds=100)
    code = main(["export", "slow", "-o", "-", "--timeout", "20"])
    out, err = capfdbinary.readouterr()
    words = shlex.split(err.decode().splitlines()[-1].removeprefix("To resume: "))

    assert (7, b"") == (code, out)
    assert 0 == main(words[1:])
    assert b"ann" in capfdbinary.readouterr().out


def test_stdout_is_for_one_thing(command, cohorts_emulator):
    """A file and a JSON document cannot share it; nothing is spent."""
    assert 2 == command("export", "c1", "-o", "-", "--json").code
    assert 0 == cohorts_emulator.spent


def test_a_device_is_refused(command, cohorts_emulator):
    """What is no regular file is not replaced, and nothing is spent."""
    assert 2 == command("export", "c1", "-o", "/dev/stdout", "--format", "csv").code
    assert 0 == cohorts_emulator.spent
