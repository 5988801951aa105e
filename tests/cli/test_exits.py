"""Exit codes are a promise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from amplitude_cohorts_async import errors
from amplitude_cohorts_async.cli import exits, render
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock, Quotas
from amplitude_cohorts_async.testing.faults import (
    Fault,
    Step,
    broken,
    html,
    refused,
    throttled,
)
from support.canary import API_KEY, SECRET_KEY

CODES = {
    "AmbiguousExportError": 1,
    "AmbiguousUploadError": 1,
    "ApiError": 1,
    "AuthenticationError": 3,
    "BadRequestError": 1,
    "CohortsError": 1,
    "ConfigurationError": 2,
    "ConnectionFailedError": 5,
    "DownloadError": 1,
    "ExportError": 1,
    "ExportExpiredError": 4,
    "ExportFailedError": 1,
    "ExportTimeoutError": 7,
    "IncompleteDownloadError": 7,
    "InvalidIdsError": 1,
    "InvalidInputError": 2,
    "JobStoreUnavailableError": 1,
    "LimiterUnavailableError": 6,
    "MalformedFileError": 1,
    "MissingExtraError": 2,
    "MonthlyQuotaError": 6,
    "NotFoundError": 4,
    "PartialWriteError": 7,
    "PermissionDeniedError": 3,
    "QuotaError": 6,
    "QuotaWaitError": 6,
    "RateLimitedError": 6,
    "RemovalGuardError": 1,
    "RequestTimeoutError": 5,
    "ServerError": 5,
    "StorageError": 7,
    "TransportError": 5,
    "UnexpectedResponseError": 1,
}


@pytest.fixture
def cohorts_emulator_setup() -> CohortsEmulator:
    """A project that has spent its month, with keys that must not be seen."""
    return CohortsEmulator(
        api_key=API_KEY,
        secret_key=SECRET_KEY,
        clock=FakeClock(flows=True),
        quotas=Quotas(month=1, used=1),
    )


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_has_its_code(name: str):
    """A new error has to be given one here."""
    kind: type[errors.CohortsError] = getattr(errors, name)

    assert CODES[name] == exits.exit_of(kind.__new__(kind))


def test_an_unanswered_question_is_an_interruption(
    command, monkeypatch: pytest.MonkeyPatch
):
    """Ctrl-C at a question is told like any other."""

    def abort(*_: object, **__: object) -> None:
        raise typer.Abort

    monkeypatch.setattr(render, "cohorts", abort)

    assert (130, "", "amplitude-cohorts: interrupted\n") == command("list")


@pytest.mark.parametrize(
    ("code", "words", "faults"),
    [
        (1, ["list"], {"list": html()}),
        (1, ["list"], {"list": refused(400, "no")}),
        (3, ["list"], {"list": refused(401, "no")}),
        (3, ["usage"], {"usage": refused(403, "no")}),
        (4, ["show", "nope"], {}),
        (5, ["list"], {"list": broken(503)}),
        (6, ["list"], {"list": throttled()}),
        (6, ["export", "c1"], {}),
    ],
)
def test_answers_become_codes(
    command,
    cohorts_emulator: CohortsEmulator,
    code: int,
    words: list[str],
    faults: dict[Step, Fault],
):
    """One paragraph on stderr, nothing on stdout, and no key in either."""
    cohorts_emulator.add_cohort("c1", members=["ann"])

    for step, fault in faults.items():
        cohorts_emulator.fail_next(step, fault, times=None)

    plain = command(*words)
    document = command(*words, "--json")

    assert (code, "") == plain[:2] == document[:2]
    assert plain.err.startswith("amplitude-cohorts: ")
    assert 1 == len(plain.err.splitlines())
    assert code == json.loads(document.err)["error"]["code"]
    assert SECRET_KEY not in plain.err + document.err
    assert API_KEY not in plain.err + document.err


def test_nobody_there_is_transport(command, monkeypatch: pytest.MonkeyPatch):
    """A service that cannot be reached is code 5."""
    monkeypatch.setenv("AMPLITUDE_BASE_URL", "http://127.0.0.1:1")

    assert 5 == command("list").code


def test_missing_keys_are_usage(command, monkeypatch: pytest.MonkeyPatch):
    """What is not set up is code 2, and says what to set."""
    monkeypatch.delenv("AMPLITUDE_SECRET_KEY")
    code, _, err = command("list")

    assert 2 == code
    assert "AMPLITUDE_SECRET_KEY" in err


@pytest.mark.parametrize("words", [["list", "--nope"], ["nope"], ["show"]])
def test_nonsense_is_usage(command, words: list[str]):
    """typer's own complaints are told like all others, as JSON if asked for."""
    plain = command(*words)
    document = command(*words, "--json")

    assert (2, 2) == (plain.code, document.code)
    assert 1 == len(plain.err.splitlines())
    assert "--help`" in plain.err
    assert 2 == json.loads(document.err)["error"]["code"]


@pytest.mark.slow
def test_the_secret_key_may_come_by_stdin(
    process, cohorts_emulator: CohortsEmulator, monkeypatch: pytest.MonkeyPatch
):
    """So that it stands neither in the environment nor among the arguments."""
    monkeypatch.delenv("AMPLITUDE_SECRET_KEY")
    started = process("usage", "--secret-key-stdin", stdin=-1)
    out, err = started.communicate(f"{SECRET_KEY}\n")

    assert (0, "") == (started.returncode, err)
    assert out.startswith("limit\t1\n")


def test_a_region_on_the_command_line_is_stronger_than_a_url_around_it(
    command, monkeypatch: pytest.MonkeyPatch
):
    """--region overrides AMPLITUDE_BASE_URL, or keys would go where nobody meant."""
    monkeypatch.setenv("AMPLITUDE_BASE_URL", "ftp://not.a.service")

    assert 2 == command("list").code
    assert "'mars' is not a region" in command("list", "--region", "mars").err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("export", "Spring buyers"), "`amplitude-cohorts list`"),
        (("list", "--region", "xx"), "pass 'us' or 'eu', or --base-url"),
        (
            ("upload", "new", "empty.txt", "--id-type", "user"),
            "`amplitude-cohorts sync ",
        ),
        (
            ("members", "add", "c1", "ids.txt", "--id-type", "amplitude"),
            "--id-type user",
        ),
        (
            ("export", "c1", "--fresh", "--reuse-within", "1"),
            "amplitude-cohorts: pass either --fresh",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_messages_are_for_a_shell(
    command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    told: str,
):
    """They name commands and options, not what Python would be told."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AMPLITUDE_APP_ID", "1")
    monkeypatch.setenv("AMPLITUDE_OWNER", "ann@example.com")
    Path("empty.txt").touch()
    Path("ids.txt").write_text("ann\n")
    code, _, err = command(*words)

    assert 2 == code
    assert told in err


def test_missing_keys_are_asked_for_in_the_environment(
    command, monkeypatch: pytest.MonkeyPatch
):
    """A command is passed none."""
    monkeypatch.delenv("AMPLITUDE_API_KEY")
    code, _, err = command("list")

    assert 2 == code
    assert "the API key is missing; set AMPLITUDE_API_KEY" in err
    assert "from_env" not in err
