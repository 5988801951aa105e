"""
The commands of all documents run as they are typed, and print what is shown.

They meet the emulator, in an empty folder and with an empty home. Those of a page run in
its order. `NOT_RUN` lists the others, each with its reason.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from importlib.metadata import entry_points
from pathlib import Path

import attrs
import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")
pytest.importorskip("pyarrow", reason="the extra parquet is not installed")

from pyarrow import csv, parquet
from typer.main import get_command

from amplitude_cohorts_async._store_urls import limiter_of_url
from amplitude_cohorts_async.cli.app import app
from amplitude_cohorts_async.cli.doctor import probe_report
from amplitude_cohorts_async.limits import DOCUMENTED
from amplitude_cohorts_async.models import Region
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock
from amplitude_cohorts_async.testing.demo import add_demo_cohorts
from amplitude_cohorts_async.testing.faults import lost_answer
from support.console_blocks import Typed, missing_lines, typed_in

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
NAME = "amplitude-cohorts"
DOCUMENTS = {
    str(path.relative_to(ROOT)): [*typed_in(path)]
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
}
PAGES = [page for page, typed in DOCUMENTS.items() if typed]

CI = "the sessions of nox do the same, on the built wheel"
ENGINE = (
    "needs the engine and its server: `nox -s engine conformance` has workers of it"
)
SERVES = "runs for ever, on one port: tests/web/test_serve.py does on others"

NOT_RUN: Mapping[str, str] = {
    "python3 -m venv .venv": CI,
    ". .venv/bin/activate": CI,
    "python3 -m venv .venv && .venv/bin/python -m pip install --quiet '.[cli]' "
    "&& .venv/bin/amplitude-cohorts demo": CI,
    "python3 -m venv .venv-dev && .venv-dev/bin/python -m pip install --quiet "
    "--upgrade pip nox && .venv-dev/bin/nox": "this runs in it",
    "nox -s reliability": "500 kills; the suite has 40 of them",
    "AMPLITUDE_KILLS=2000 AMPLITUDE_KILLS_SEED=monday "
    "pytest tests/reliability/test_crash_loop.py -rP -n 2": "2000 kills, as above",
    "amplitude-cohorts demo": "two million users: tests/cli/test_demo.py",
    "amplitude-cohorts serve --demo": SERVES,
    "amplitude-cohorts serve --directory /srv/exports --keep 100": SERVES,
    "amplitude-cohorts serve --host exports.internal --certificate server.pem": SERVES,
    "amplitude-cohorts serve --host 0.0.0.0 "
    "--behind-proxy https://exports.example.com": SERVES,
    "uvicorn app:app --workers 4": "runs for ever: tests/web/test_processes.py",
    "export PYTHONPATH=.": "for the next three",
    "procrastinate --app=cohort_jobs.app schema --apply": ENGINE,
    "procrastinate --app=cohort_jobs.app worker -q cohort_exports -c 4 -p 1": ENGINE,
    'python -c "import asyncio, cohort_jobs; '
    "asyncio.run(cohort_jobs.export('26umsb5', '2026-11-24'))\"": ENGINE,
    "export CELERY_BROKER_URL=redis://queue.internal:6379/0": "for the next two",
    "celery --app celery_app worker --loglevel INFO": ENGINE,
    "python celery_app.py 26umsb5 /data/26umsb5.csv 2026-11-24": ENGINE,
    "kubectl create job --from=cronjob/cohort-26umsb5 cohort-26umsb5-by-hand": (
        "needs a cluster: tests/engines/recipes/test_cronjob.py has its pods"
    ),
}
"""Why a command does not run here, and what tests it."""

SHOWN_ELSEWHERE: Mapping[str, str] = {
    "amplitude-cohorts profiles add shop --region eu": (
        "the prompts of a terminal: tests/cli/test_profiles.py"
    ),
    "amplitude-cohorts doctor": (
        "keys of the other region, with TLS: tests/cli/test_doctor.py"
    ),
}
"""Why a command runs here, and prints something else."""

FOR_EVER = {
    "amplitude-cohorts emulate",
    "python -m amplitude_cohorts_async.testing --demo",
}
"""They are stopped when they have printed what is shown."""

CODES = {"amplitude-cohorts export 26umsb5 -o members.csv --timeout 30": 7}
"""Exit codes that are not 0."""

# In the place of programs that have no database here, or may be missing.
PSQL = r"""#!/bin/sh
case "$*" in
  -Atc*) printf 'user-1\nuser-2\n' ;;
  *) grep -q 'CREATE SCHEMA' ;;
esac
"""
JQ = """#!/bin/sh
grep -q '"cohorts"'
"""
STANDING_IN = {"psql": PSQL} if shutil.which("jq") else {"psql": PSQL, "jq": JQ}

INSTALLED = re.compile(r"pip install (.+)")
EXPORTED = re.compile(r"export (AMPLITUDE_\w+=.+)")
REDIRECTED = re.compile(r"(.+) > (\S+)")


class Terminal(io.StringIO):
    """Somebody who types."""

    def isatty(self) -> bool:
        """Whether a question is asked."""
        return True


@attrs.frozen
class Shell:
    """Runs what is typed: our command in this process, other things in a real shell."""

    emulator: CohortsEmulator
    environment: Mapping[str, str]
    real_words: dict[str, str] = attrs.field(factory=dict)
    """What the words of a page stand for here."""

    def run(self, typed: Typed) -> None:
        """Run a command; it has to end, and print, as the document says."""
        text = typed.text
        for word, real in self.real_words.items():
            text = text.replace(word, real)

        if typed.text in FOR_EVER:
            printed = self._until_shown(typed)
        elif found := INSTALLED.fullmatch(text):
            printed = check_requirements(shlex.split(found[1], comments=True))
        elif found := EXPORTED.fullmatch(text):
            printed = check_variables(shlex.split(found[1]))
        elif text.startswith(f"{NAME} ") and not {"|", ">>"} & {*text.split()}:
            printed = self._here(text, CODES.get(typed.text, 0))
        else:
            printed = self._in_a_shell(text)

        if typed.text not in SHOWN_ELSEWHERE:
            assert [] == missing_lines(typed.shown, printed), printed

    def _here(self, text: str, expected: int) -> str:
        (entry,) = entry_points(group="console_scripts", name=NAME)
        redirected = REDIRECTED.fullmatch(text)
        _, *words = shlex.split(redirected[1] if redirected else text)
        out = io.StringIO()
        file = io.StringIO() if redirected else out

        with redirect_stdout(file), redirect_stderr(out):
            code = entry.load()(words)
        if redirected:
            Path(redirected[2]).expanduser().write_text(file.getvalue())
            assert file.getvalue()
        assert expected == code, out.getvalue()

        return out.getvalue()

    def _in_a_shell(self, text: str) -> str:
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", text],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert 0 == done.returncode, done.stderr

        return done.stdout + done.stderr

    def _until_shown(self, typed: Typed) -> str:
        words = shlex.split(typed.text)
        program = BIN / words[0]
        with subprocess.Popen(
            [program, *words[1:]],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdout
            printed = [process.stdout.readline() for _ in typed.shown]
            process.terminate()
        assert 0 == process.returncode

        return "".join(printed)


@pytest.fixture
def cohorts_emulator_setup() -> CohortsEmulator:
    """With a clock that is right, and jobs that take a while."""
    clock = FakeClock(utc=datetime.now(UTC), flows=True)
    emulator = CohortsEmulator(clock=clock, job_seconds=40)
    add_demo_cohorts(emulator, size=1)

    return emulator


@pytest.fixture
def shell(
    home: Path,
    no_waiting: None,
    cohorts_emulator: CohortsEmulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Shell:
    """A shell in a folder with the files that the documents name."""
    folder, programs = tmp_path / "work", tmp_path / "programs"
    folder.mkdir()
    programs.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr(probe_report, "service_clock", lambda: cohorts_emulator.clock)

    for name in ("ids.txt", "two-users.txt", "wanted.txt"):
        Path(name).write_text("ann\nbob\n")
    for name in ("today", "yesterday"):
        Path(f"{name}.csv.gz").write_bytes(gzip.compress(b"user_id\nann\n"))
    for name, text in STANDING_IN.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o700)

    path = os.pathsep.join([str(programs), str(BIN), os.environ["PATH"]])

    return Shell(cohorts_emulator, {**os.environ, "PATH": path})


def set_cli_scene(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """The EU is the emulator, and somebody types its keys, and that they agree."""
    keys = f"{shell.emulator.api_key}\n{shell.emulator.secret_key}\n"
    monkeypatch.setattr(Region.EU, "_value_", shell.emulator.base_url)
    Path("~/.config/fish/completions").expanduser().mkdir(parents=True)
    monkeypatch.setattr("sys.stdin", io.StringIO(keys))


def set_engines_scene(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export may be spent, and nobody knows its id."""
    del monkeypatch
    shell.emulator.fail_next("export", lost_answer())
    shell._here(f"{NAME} export 26umsb5 -o 26umsb5.csv", expected=5)
    listed = json.loads(shell._here(f"{NAME} jobs --json", expected=0))
    shell.real_words["f5fc3d62b5be"] = listed["jobs"][0]["id"]


def set_sync_scene(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a table of customers, as text and as Parquet."""
    del shell, monkeypatch
    Path("customers.csv").write_text("user_id,plan\nann,team\nbob,free\n")
    parquet.write_table(csv.read_csv("customers.csv"), "customers.parquet")


SCENES: Mapping[str, Callable[[Shell, pytest.MonkeyPatch], None]] = {
    "docs/cli.md": set_cli_scene,
    "docs/howto/engines.md": set_engines_scene,
    "docs/howto/sync.md": set_sync_scene,
}


@pytest.mark.slow
@pytest.mark.posix
@pytest.mark.parametrize("page", PAGES)
def test_commands_run(page: str, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, but those with a reason not to."""
    if scene := SCENES.get(page):
        scene(shell, monkeypatch)

    for typed in DOCUMENTS[page]:
        if typed.text in NOT_RUN:
            continue
        if "--probe" in typed.text:
            monkeypatch.setattr("sys.stdin", Terminal("y\n"))
        shell.run(typed)


@pytest.mark.parametrize("exceptions", [NOT_RUN, SHOWN_ELSEWHERE, FOR_EVER, CODES])
def test_exceptions_are_in_a_document(exceptions: Mapping[str, object]) -> None:
    """Remove those that no document has any more."""
    typed = {each.text for page in PAGES for each in DOCUMENTS[page]}

    assert set() == {*exceptions} - typed


@pytest.mark.parametrize("text", [each for each in NOT_RUN if each.startswith(NAME)])
def test_words_are_understood(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of our command that does not run, too."""
    monkeypatch.chdir(tmp_path)
    Path("server.pem").touch()
    command, context = get_command(app), None
    _, *words = shlex.split(text)
    while words or context is None:
        context = command.make_context(command.name, words, parent=context)
        if not hasattr(command, "commands"):
            break
        rest = [*context._protected_args, *context.args]
        _, command, words = command.resolve_command(context, rest)


def check_requirements(requirements: list[str]) -> str:
    """Extras of ours exist, and what else is installed is a requirement of tests."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = json.dumps(project["dependency-groups"])
    extras = project["project"]["optional-dependencies"]

    for each in requirements:
        name, _, wanted = each.rstrip("]").partition("[")
        if name == ".":
            assert {*wanted.split(",")} <= {*extras, ""}
        else:
            assert f'"{each}>=' in groups or f'"{name}[{wanted}]>=' in groups

    return ""


def check_variables(assignments: list[str]) -> str:
    """They are ours, and a limiter is one; the emulator's variables stay."""
    page = (ROOT / "docs/cli.md").read_text()

    for each in assignments:
        name, _, value = each.partition("=")
        assert f"`{name}`" in page
        if name == "AMPLITUDE_LIMITER_URL":
            limiter_of_url(value, DOCUMENTED)

    return ""
