"""`doctor --probe` tells what a service does, and knows each switch of the emulator."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from amplitude_cohorts_async.cli.doctor import probe_report
from amplitude_cohorts_async.cli.doctor.probe_calls import Wire, reported_name
from amplitude_cohorts_async.errors import ConnectionFailedError
from amplitude_cohorts_async.testing import (
    Assumptions,
    CohortsEmulator,
    FakeClock,
    Quotas,
)
from amplitude_cohorts_async.testing.faults import broken, job_failed, refused
from support.fault_server import closed_port

pytestmark = pytest.mark.slow

Probed = Callable[..., dict[str, str]]


def emulator(**options: object) -> CohortsEmulator:
    """Return a service whose jobs take 40 seconds, as the emulator beside it has."""
    return CohortsEmulator(clock=FakeClock(flows=True), job_seconds=40, **options)


@pytest.fixture
def cohorts_emulator_setup() -> CohortsEmulator:
    """One that is as the emulator is by itself."""
    return emulator()


@pytest.fixture(autouse=True)
def same_time(
    cohorts_emulator: CohortsEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probe waits on the emulator's clock, which jumps."""
    monkeypatch.setattr(probe_report, "service_clock", lambda: cohorts_emulator.clock)


@pytest.fixture
def ids(tmp_path: Path) -> Path:
    """Two users of the project."""
    file = tmp_path / "ids.txt"
    file.write_text("ann\nbob\n")

    return file


@pytest.fixture
def probed(command, ids: Path) -> Probed:
    """Probe; return the service's answers that differ from the emulator's own."""

    def probe(*words: object) -> dict[str, str]:
        done = command("doctor", "--probe", "--yes", "--json", "--ids", ids, *words)
        assert 0 == done.code, done.err
        answers = json.loads(done.out)["probe"]["answers"]
        return {
            each["question"]: each["service"] for each in answers if each["differs"]
        }

    return probe


def test_the_emulator_is_like_itself(probed: Probed, cohorts_emulator: CohortsEmulator):
    """Two exports are spent, one cohort is made, and it stays."""
    assert {} == probed()
    assert (2, 1) == (cohorts_emulator.spent, len(cohorts_emulator.cohort_ids))
    assert 2 == len(cohorts_emulator.members_of(cohorts_emulator.cohort_ids[0]))


def test_without_known_users_one_export_is_spent(
    command, cohorts_emulator: CohortsEmulator
):
    """And no write is looked at."""
    code, out, _ = command("doctor", "--probe", "--yes", "--json")
    questions = {each["question"] for each in json.loads(out)["probe"]["answers"]}

    assert (0, 1) == (code, cohorts_emulator.spent)
    assert "an export moves lastComputed" in questions
    assert not [each for each in questions if "write" in each]


def test_the_report_names_no_id_key_or_link(
    command, cohorts_emulator: CohortsEmulator, ids: Path
):
    """It is to be handed in."""
    code, out, err = command("doctor", "--probe", "--yes", "--ids", ids)
    (cohort_id,) = cohorts_emulator.cohort_ids
    jobs = json.loads(command("jobs", "--json").out)["jobs"]
    told = [
        *(cohort_id, "ann", "bob", cohorts_emulator.api_key, "http"),
        *(cohorts_emulator.secret_key, *(job["request_id"] for job in jobs)),
    ]

    assert 0 == code
    assert 2 == len(jobs)
    assert [] == [each for each in told if each in out]
    assert {3} == {len(line.split("\t")) for line in out.splitlines()}
    assert "2 exports spent" in err
    assert "stays" in err


def test_what_it_spent_is_not_left_open(probed: Probed, command):
    """Its files are read to their end."""
    probed()

    assert [] == json.loads(command("jobs", "--open", "--json").out)["jobs"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"known_after": 3.0}, {"status right after the request": "404 no word"}),
        ({"file_delay": 7.0}, {"file right after the job is done": "404"}),
        ({"early_file_status": 409}, {"file before the job is done": "409"}),
        ({"writes_move_times": False}, {"a write moves lastComputed": "no"}),
        (
            {"cohorts_by_id": True},
            {"upload answers": "200: cohortId, cohortsById, metadata"},
        ),
        ({"validation_names_cohort": True}, {"cohortId of a validation": "null"}),
        ({"manual_only": False}, {}),
        ({"expired_job_status": 404}, {}),
        ({"spent_month_status": 400}, {}),
        ({"failed_job_status": 202}, {}),
        ({"group_header": "group_value"}, {}),
        ({"last_computed": True}, {}),
    ],
    ids=lambda value: next(iter(value), "nothing") if isinstance(value, dict) else "",
)
class TestEachSwitch:
    """Those that an account can see show; the others leave the probe alone."""

    @pytest.fixture
    def cohorts_emulator_setup(self, options: dict[str, object]) -> CohortsEmulator:
        """A service with one of them."""
        return emulator(assumptions=Assumptions(**options))

    def test_it_shows(self, probed: Probed, expected: dict[str, str]):
        """Beside what the emulator does by itself."""
        found = probed()

        assert expected == {key: found.get(key) for key in expected}
        assert expected or not found


class TestLinks:
    """Of a service that sends no file itself."""

    @pytest.fixture
    def cohorts_emulator_setup(self) -> CohortsEmulator:
        """Every file comes from the store."""
        return emulator(inline_below=0)

    def test_they_are_followed(self, probed: Probed):
        """Twice, to compare the objects; nothing of the link is told."""
        found = probed()

        assert "by a link" == found["the file comes"]
        assert "yes" == found["a second link has the same ETag"]
        assert found["the store answers"].startswith("200 ")
        assert "etag" in found["header names of the object"]


def test_a_failed_job_is_an_answer(
    probed: Probed, cohorts_emulator: CohortsEmulator, ids: Path
):
    """It ends the probe, and what was found is told."""
    cohorts_emulator.fail_next("export", job_failed())
    found = probed()

    assert "JOB FAILED" in found["status of a job, in turn"]
    assert "ended early by" in found
    assert 1 == cohorts_emulator.spent


def test_an_error_ends_it_with_what_was_found(
    probed: Probed, cohorts_emulator: CohortsEmulator
):
    """Its class and status, and not its text."""
    cohorts_emulator.fail_next("membership", refused(400, "hush"))
    found = probed()

    assert "BadRequestError 400" == found["ended early by"]
    assert "hush" not in str(found)
    assert 1 == cohorts_emulator.spent


class TestTooFewExports:
    """At the end of a month."""

    @pytest.fixture
    def cohorts_emulator_setup(self) -> CohortsEmulator:
        """One is left."""
        return emulator(quotas=Quotas(month=1))

    def test_it_does_not_begin(
        self, command, cohorts_emulator: CohortsEmulator, ids: Path
    ):
        """No cohort is made."""
        code, _, err = command("doctor", "--probe", "--yes", "--ids", ids)

        assert (2, []) == (code, cohorts_emulator.cohort_ids)
        assert "1 export is left" in err

    def test_without_known_users_one_is_enough(
        self, command, cohorts_emulator: CohortsEmulator
    ):
        """It spends no more."""
        assert 0 == command("doctor", "--probe", "--yes").code
        assert 1 == cohorts_emulator.spent


def test_it_asks_first(command, cohorts_emulator: CohortsEmulator):
    """Who cannot be asked has to say so; nothing is sent."""
    code, _, err = command("doctor", "--probe")

    assert (2, []) == (code, cohorts_emulator.log)
    assert "stays" in err
    assert "--yes" in err


def test_it_does_not_begin_where_something_fails(
    command, cohorts_emulator: CohortsEmulator
):
    """The checks come first, and say what."""
    cohorts_emulator.fail_next("usage", broken(503), times=None)
    code, out, _ = command("doctor", "--probe", "--yes")

    assert (5, 0) == (code, cohorts_emulator.requests("upload"))
    assert "failed\tkeys" in out


@pytest.mark.parametrize("name", ["AMPLITUDE_APP_ID", "AMPLITUDE_OWNER"])
def test_the_project_has_to_be_known(command, monkeypatch, name: str):
    """A cohort is made in it."""
    monkeypatch.delenv(name)
    code, _, err = command("doctor", "--probe", "--yes")

    assert 2 == code
    assert name in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--yes",), "belong to --probe"),
        (("--probe", "--yes", "--ids", "nowhere.txt"), "cannot be read"),
    ],
)
def test_options_that_do_not_fit(command, words: tuple[str, ...], told: str):
    """Before anything is sent."""
    code, _, err = command("doctor", *words)

    assert 2 == code
    assert told in err


def test_one_id_is_too_few(command, tmp_path: Path):
    """One is uploaded, one added."""
    file = tmp_path / "one.txt"
    file.write_text("ann\nann\n")

    assert "two user ids" in command("doctor", "--probe", "--yes", "--ids", file).err


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cohortId", "cohortId"),
        ("x-amz-id-2", "x-amz-id-2"),
        ("26umsb5", "(another)"),
        ("1234567", "(another)"),
        ("a b", "(another)"),
        ("x" * 41, "(another)"),
    ],
)
def test_names_that_may_be_ids_are_left_out(name: str, expected: str):
    """What has many digits, or is no name."""
    assert expected == reported_name(name)


def test_a_terminal_gets_folded_lines(command, monkeypatch: pytest.MonkeyPatch):
    """At 40 columns."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    out = command("doctor", "--probe", "--yes", "-q").out

    assert [] == [line for line in out.splitlines() if len(line) > 40]
    assert re.search("file before the job is done: 404", " ".join(out.split()))


class _Terminal(io.StringIO):
    """Somebody who types."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "code"), [("n\n", 1), ("y\n", 0)])
def test_a_terminal_is_asked(
    command, cohorts_emulator: CohortsEmulator, monkeypatch, answer: str, code: int
):
    """Whoever says no has spent nothing."""
    monkeypatch.setattr("sys.stdin", _Terminal(answer))
    done = command("doctor", "--probe")

    assert code == done.code
    assert "spends at most 1 of the month's exports. Go on?" in done.err
    assert bool(cohorts_emulator.spent) == (0 == code)


async def test_proxies_of_the_environment(monkeypatch: pytest.MonkeyPatch):
    """Each address has its own; NO_PROXY has none."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    async with CohortsEmulator() as emulator:
        monkeypatch.setenv("HTTP_PROXY", emulator.base_url.removeprefix("http://"))
        wire = Wire(
            origin="http://amplitude.example",
            api_key=emulator.api_key,
            secret_key=emulator.secret_key,
            proxy="env",
        )
        seen = await wire.get("/api/5/cohorts/request-status/nobody")
        with closed_port() as port, pytest.raises(ConnectionFailedError):
            await wire.fetch(f"http://127.0.0.1:{port}/key")

    assert 404 == seen.status


async def test_a_request_without_an_answer_tells_no_link():
    """Neither its address nor what was asked."""
    with closed_port() as port:
        wire = Wire(origin=f"http://127.0.0.1:{port}", api_key="k", secret_key="s")
        with pytest.raises(ConnectionFailedError) as caught:
            await wire.get("/secret-path")

    assert "secret-path" not in str(caught.value)
    assert str(port) not in str(caught.value)
