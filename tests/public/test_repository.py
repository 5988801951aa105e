"""The checkout itself: what must be in it, and what must not."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from amplitude_cohorts_async import __version__

ROOT = Path(__file__).parents[2]
SCRIPT = (ROOT / ".ci/run").read_text()
THIS = Path(__file__).relative_to(ROOT)
LOCKS = re.compile(r"(^|/)([\w.-]+\.lock|package-lock\.json|requirements[\w-]*\.txt)$")
HOMES = re.compile(r"(?<![\w.:])/(?:root|home|Users|opt|work|workspace)/\w")
INDEXES = re.compile(r"--?(?:extra-)?index-url|find-links|/simple/|files\.pythonhosted")


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """Every file that git would keep, as text."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")

    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "-c", "-o", "--exclude-standard"],
        capture_output=True,
        check=True,
        text=True,
    )
    names = [name for name in listed.stdout.split("\0") if (ROOT / name).is_file()]

    return {
        name: (ROOT / name).read_bytes().decode(errors="replace")
        for name in names
        if name != str(THIS)
    }


def test_no_lock_file(texts: dict[str, str]) -> None:
    """A lock file would carry the addresses of whichever index made it."""
    assert [] == [name for name in texts if LOCKS.search(name)]


@pytest.mark.parametrize("pattern", [HOMES, INDEXES], ids=["paths", "indexes"])
def test_no_trace_of_a_machine(texts: dict[str, str], pattern: re.Pattern[str]) -> None:
    """No file names a folder of somebody's machine, or where packages came from."""
    found = {
        name: match[0]
        for name, text in texts.items()
        if (match := pattern.search(text))
    }

    assert {} == found


def test_changelog_tells_of_this_version() -> None:
    """What is about to be released is described."""
    heading = re.escape(__version__)

    assert re.search(
        rf"^## \[?{heading}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )


def test_readme_has_two_commands() -> None:
    """One line shows it, and one line tests it, with what CI installs."""
    commands = re.findall(
        r"^\s*(python3 -m venv .+)$", (ROOT / "README.md").read_text(), re.MULTILINE
    )

    demo, test = commands
    installing, _, nox = test.rpartition(" && ")
    assert demo.endswith("amplitude-cohorts demo")
    assert installing in SCRIPT
    assert nox in SCRIPT


def test_ci_runs_all_checks() -> None:
    """It runs them in two halves; a session that is in none of them never runs."""
    sessions = re.findall(
        r"^@nox\.session(.*)\n(?:@nox.*\n)?def (\w+)",
        (ROOT / "noxfile.py").read_text(),
        re.MULTILINE,
    )
    words = [
        tag[1] if (tag := re.search(r'tags=\["(.+?)"\]', options)) else name
        for options, name in sessions
        if "default=False" not in options
    ]

    assert {"in-process", "processes", "report"} == {*words}
    assert [] == [word for word in words if f" {word} " not in SCRIPT]
