"""Profiles: keys and region from one source, in a file that is ours alone."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from amplitude_cohorts_async.testing import CohortsEmulator

NAMES = ("API_KEY", "SECRET_KEY", "REGION", "BASE_URL", "APP_ID", "OWNER")


@pytest.fixture
def other() -> Iterator[CohortsEmulator]:
    """A service of another project, with keys of its own."""
    with CohortsEmulator(api_key="other-key", secret_key="other-secret") as emulator:
        emulator.add_cohort("theirs", members=["ann"])
        yield emulator


@pytest.fixture
def path(data_folder: Path) -> Path:
    """Where the profiles are."""
    return data_folder.parents[1] / "config" / "amplitude-cohorts" / "profiles.toml"


@pytest.fixture
def no_environment(cohorts_emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell without keys."""
    for name in NAMES:
        monkeypatch.delenv(f"AMPLITUDE_{name}", raising=False)


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a text on stdin."""
    return lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


@pytest.fixture
def add(command, typed, other: CohortsEmulator) -> Callable[..., None]:
    """Add a profile of the other project."""

    def added(name: str = "other", *options: str, text: str = "other-key\n") -> None:
        secret = () if options else ("--base-url", other.base_url)
        typed(text + "other-secret\n")
        done = command("profiles", "add", name, *secret, *options)
        assert 0 == done.code, done.err
        typed("")

    return added


@pytest.fixture
def keyless(add, no_environment) -> Callable[..., None]:
    """Add a profile in a shell without keys."""
    return add


def by_hand(path: Path, text: str, mode: int = 0o600) -> None:
    """Write the file as a user does."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def test_a_named_profile_is_used_and_nothing_of_the_environment(command, add):
    """Its keys, its region; the environment has the other ones whole."""
    add()

    assert "theirs" in command("list", "--profile", "other").out
    assert "theirs" not in command("list").out


def test_the_environment_goes_before_the_default_profile(
    command, add, no_environment, monkeypatch: pytest.MonkeyPatch, cohorts_emulator
):
    """The first profile is the default; one variable makes it the environment's turn."""
    add()
    assert "theirs" in command("list").out

    monkeypatch.setenv("AMPLITUDE_API_KEY", cohorts_emulator.api_key)
    code, _, err = command("list")

    assert 2 == code
    assert "the secret key is missing" in err


@pytest.mark.parametrize(
    ("name", "value"), [("REGION", "eu"), ("BASE_URL", "https://x.example")]
)
def test_a_region_alone_is_not_mixed_with_the_keys_of_a_profile(
    command, keyless: Callable[..., None], monkeypatch, name: str, value: str
):
    """Keys of one place never go to another."""
    keyless()
    monkeypatch.setenv(f"AMPLITUDE_{name}", value)
    code, _, err = command("list")

    assert 2 == code
    assert "the API key is missing" in err
    assert "profiles add" in err


@pytest.mark.parametrize(
    "option", [("--region", "eu"), ("--base-url", "https://x.example")]
)
def test_an_option_does_not_send_the_keys_of_a_profile_elsewhere(
    command, add, other: CohortsEmulator, option
):
    """A profile is bound to its region."""
    add()
    code, _, err = command("list", "--profile", "other", *option)

    assert (2, 0) == (code, other.requests("list"))
    assert "its own" in err


def test_the_project_of_an_upload_is_that_of_the_profile(
    command, add, tmp_path: Path, other: CohortsEmulator
):
    """Not the environment's, which has another."""
    add()
    ids = tmp_path / "ids.txt"
    ids.write_text("ann\n")
    upload = ("upload", "Test", ids, "--id-type", "user", "--profile", "other")
    code, _, err = command(*upload)

    assert (2, 0) == (code, other.requests("upload"))
    assert "app_id" in err or "app id" in err.lower()


@pytest.mark.posix
def test_the_file_is_ours_alone_and_has_what_was_typed(add, path: Path):
    """Mode 0600, in a folder of mode 0700."""
    add()

    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert 0o700 == stat.S_IMODE(path.parent.stat().st_mode)
    assert 'secret_key = "other-secret"' in path.read_text()
    assert [path] == list(path.parent.iterdir())


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
@pytest.mark.posix
def test_a_file_that_others_can_reach_is_not_used(command, add, path: Path, mode: int):
    """Neither read nor written by them."""
    add()
    path.chmod(mode)
    code, _, err = command("list", "--profile", "other")

    assert 2 == code
    assert "chmod 600" in err
    assert "other-secret" not in err


@pytest.mark.posix
def test_a_folder_that_others_can_write_to_is_not_used(command, add, path: Path):
    """Somebody could put another file there."""
    add()
    path.parent.chmod(0o770)
    code, _, err = command("list", "--profile", "other")

    assert 2 == code
    assert "chmod go-w" in err


@pytest.mark.skipif(
    getattr(os, "geteuid", lambda: -1)() != 0, reason="only root gives files away"
)
def test_a_file_of_another_user_is_not_used(command, add, path: Path):
    """Its command would run as us."""
    add()
    os.chown(path, 12345, -1)
    code, _, err = command("list", "--profile", "other")

    assert 2 == code
    assert "another user" in err


def test_a_secret_comes_from_a_command(
    command, add, other: CohortsEmulator, path: Path
):
    """Once for each run, without a shell; the API key is in the file."""
    script = f'{sys.executable} -c \'print("other-secret"); print("$HOME")\''
    add("cmd", "--base-url", other.base_url, "--secret-key-command", script)

    assert "other-secret\n" not in path.read_text().replace('"', "\n").split("command")
    assert "theirs" in command("list", "--profile", "cmd").out


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("import sys; print('hush'); sys.exit(3)", "code 3"),
        ("print()", "said none"),
    ],
)
def test_a_command_that_fails_is_told_without_what_it_said(
    command, add, other: CohortsEmulator, script: str, told: str
):
    """What it printed may be half of a key."""
    words = f'{sys.executable} -c "{script}"'
    add("cmd", "--base-url", other.base_url, "--secret-key-command", words)
    code, _, err = command("list", "--profile", "cmd")

    assert 2 == code
    assert told in err
    assert "hush" not in err


def test_a_command_that_is_no_program_is_told(command, add, other: CohortsEmulator):
    """And not its arguments."""
    words = "/nowhere/program hush"
    add("cmd", "--base-url", other.base_url, "--secret-key-command", words)
    code, _, err = command("list", "--profile", "cmd")

    assert (2, False) == (code, "hush" in err)
    assert "cannot be run" in err


def test_a_secret_comes_from_a_variable(
    command, add, other: CohortsEmulator, monkeypatch: pytest.MonkeyPatch
):
    """One that the profile names; unset, it is named."""
    add("env", "--base-url", other.base_url, "--secret-key-env", "THEIR_SECRET")
    code, _, err = command("list", "--profile", "env")
    assert 2 == code
    assert "THEIR_SECRET" in err

    monkeypatch.setenv("THEIR_SECRET", "other-secret")
    assert "theirs" in command("list", "--profile", "env").out


def test_a_secret_comes_from_stdin_where_none_is_kept(
    command, add, typed, other: CohortsEmulator
):
    """And from nowhere else."""
    add("in", "--base-url", other.base_url, "--no-secret-key")
    assert 2 == command("list", "--profile", "in").code

    typed("other-secret\n")
    assert "theirs" in command("list", "--profile", "in", "--secret-key-stdin").out


def test_a_secret_is_not_of_two_sources(command, add):
    """A profile that keeps one takes none."""
    add()
    code, _, err = command("list", "--profile", "other", "--secret-key-stdin")

    assert 2 == code
    assert "leave --secret-key-stdin out" in err


def test_stdin_is_read_once_a_command(
    command, typed, cohorts_emulator, monkeypatch, tmp_path: Path
):
    """Though forgetting asks the store twice."""
    cohorts_emulator.add_cohort("c1", members=["ann"])
    assert 0 == command("export", "c1", "-o", tmp_path / "c1.csv").code
    (job,) = json.loads(command("jobs", "--json").out)["jobs"]
    monkeypatch.delenv("AMPLITUDE_SECRET_KEY")
    typed(f"{cohorts_emulator.secret_key}\n")
    forget = ("jobs", "forget", job["id"], "--yes", "--secret-key-stdin")

    assert 0 == command(*forget).code


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[profiles.x]\nregoin = "eu"\napi_key = "k"\n', "'regoin'"),
        ('[profiles.x]\nregion = "eu"\n', "no api_key"),
        ('[profiles.x]\napi_key = "k"\n', "region"),
        ('[profiles.x]\napi_key = 5\nregion = "eu"\n', "api_key has to be"),
        (
            '[profiles.x]\napi_key = "k"\nsecret_key = "hush"\nsecret_key_env = "S"\n',
            "several sources",
        ),
        (
            '[profiles.x]\napi_key = "k"\nregion = "eu"\nsecret_key_command = [1]\n',
            "list of texts",
        ),
        ('secret_key = "hush', "not valid TOML"),
        ('default = "y"\n', "'y'"),
        ("profiles = 3\n", "tables"),
        ("other = 3\n", "may hold only"),
        ("profiles.x = 3\n", "not a table"),
    ],
)
@pytest.mark.posix
def test_a_file_that_is_wrong_says_what_and_shows_no_key(
    command, no_environment, path: Path, text: str, told: str
):
    """Before anything is sent."""
    by_hand(path, text)
    code, _, err = command("list")

    assert 2 == code
    assert told in err
    assert "hush" not in err
    assert str(path) in err or "'y'" in told


def test_the_list_shows_no_key(command, add, path: Path):
    """Neither as lines nor as JSON."""
    add()
    add("second", "--region", "eu")
    lines = command("profiles").out
    document = json.loads(command("profiles", "list", "--json").out)["profiles"]

    assert ["other", "second"] == [each["name"] for each in document["profiles"]]
    assert ("other", str(path)) == (document["default"], document["path"])
    assert "-key" not in lines + json.dumps(document)
    assert "second\teu\tno\tfile\t\n" in lines


def test_profiles_are_chosen_and_removed(command, add, path: Path):
    """Without its default the file has none."""
    add()
    add("second", "--region", "eu")

    assert "second\teu\tyes" in command("profiles", "default", "second").out
    assert "second" not in command("profiles", "remove", "second").out
    assert "default" not in path.read_text()
    code, _, err = command("profiles", "remove", "second")

    assert 2 == code
    assert "there is no profile 'second' to remove (known: other)" in err
    assert "profiles add" not in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("x",), "--region us"),
        (("x", "--region", "mars"), "not a region"),
        (("a b", "--region", "eu"), "cannot name"),
        (("x", "--region", "eu", "--no-secret-key", "--secret-key-env", "A"), "one of"),
        (("x", "--region", "eu", "--secret-key-env", "A-B"), "name of an environment"),
        (("x", "--region", "eu", "--secret-key-command", "'a"), "quote"),
        (("x", "--base-url", "http://x.example"), "unencrypted"),
        (("x", "--region", "eu", "--app-id", "0"), "app_id"),
    ],
)
def test_what_cannot_be_a_profile_is_refused(
    command, typed, path: Path, words, told: str
):
    """And nothing is written."""
    typed("key\nsecret\n")
    code, _, err = command("profiles", "add", *words)

    assert (2, False) == (code, path.exists())
    assert told in err


def test_a_missing_key_is_asked_for(command, typed, path: Path):
    """The two lines are named."""
    typed("key\n")
    code, _, err = command("profiles", "add", "x", "--region", "eu")

    assert (2, False) == (code, path.exists())
    assert "Secret key" in err


@pytest.mark.posix
def test_a_link_to_the_file_is_kept(command, add, path: Path, tmp_path: Path):
    """Some keep such files in a folder of their own."""
    real = tmp_path / "dotfiles" / "profiles.toml"
    by_hand(real, "")
    path.parent.mkdir(parents=True)
    path.symlink_to(real)
    add()

    assert path.is_symlink()
    assert "other-secret" in real.read_text()
    assert 0 == command("list", "--profile", "other").code

    path.parent.chmod(0o777)
    assert "chmod go-w" in command("list", "--profile", "other").err


def test_the_way_to_go_on_names_the_profile(
    command, add, other: CohortsEmulator, tmp_path: Path
):
    """What is typed next reaches the same project."""
    add()
    other.add_cohort("long", members=["ann"], job_seconds=9_000)
    words = ("export", "long", "--profile", "other", "--timeout", "0.1")
    _, _, err = command(*words, "-o", tmp_path / "x.csv")

    assert "--profile other" in err.splitlines()[-1]


def test_a_terminal_is_asked_for_both_keys(command, path: Path, monkeypatch):
    """The secret one without an echo; neither is shown afterwards."""
    asked: list[tuple[str, bool]] = []

    def prompt(text: str, *, hide_input: bool, err: bool) -> str:
        asked.append((text, hide_input))
        return text.replace(" ", "-").lower()

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("typer.prompt", prompt)
    code, out, _ = command("profiles", "add", "x", "--region", "EU")

    assert (0, [("API key", False), ("Secret key", True)]) == (code, asked)
    assert 'api_key = "api-key"' in path.read_text()
    assert "x\teu\tyes\tfile\t\n" == out


def test_options_go_behind_the_whole_command(command):
    """As for `jobs`."""
    assert 2 == command("profiles", "--quiet", "list").code


def test_a_place_that_cannot_be_written_is_named(command, typed, path: Path):
    """And no key is."""
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    path.parent.write_text("")
    typed("key\nhush\n")
    code, _, err = command("profiles", "add", "x", "--region", "eu")

    assert (2, False) == (code, "hush" in err)
    assert str(path.parent) in err


def test_no_profiles_yet(command):
    """An empty list is none."""
    assert (0, "", "") == command("profiles")
