"""Shells complete commands, options, profiles and cohorts, and ask nobody for it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from amplitude_cohorts_async.cli import main
from amplitude_cohorts_async.testing import CohortsEmulator
from cli.completions import TABLE, current


@pytest.fixture
def cache(data_folder: Path) -> Path:
    """The folder of what is kept for completion."""
    return data_folder.parents[1] / "cache" / "amplitude-cohorts"


@pytest.fixture
def listed(command, cohorts_emulator: CohortsEmulator) -> None:
    """Two cohorts that were listed, one with a name that is out to get us."""
    cohorts_emulator.add_cohort("26umsb5", members=["ann"], name="Buyers")
    cohorts_emulator.add_cohort("9apg8e8", members=["ann"], name="$(id)\t`x`\n\x1b[2J")
    assert 0 == command("list").code


@pytest.fixture
def offered(capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Return what is offered for the last of some words."""

    def offers(*words: str) -> list[str]:
        capsys.readouterr()
        main(["__complete", *words])
        out, err = capsys.readouterr()
        assert "" == err
        return [line.partition("\t")[0] for line in out.splitlines()]

    return offers


def test_the_table_is_current():
    """`python tests/cli/completions.py` writes it."""
    assert current() == TABLE.read_text()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("expo",), ["export"]),
        (("jobs", "r"), ["resume", "run"]),
        (("list", "--so"), ["--sort"]),
        (("list", "--sort", ""), ["name", "size", "computed"]),
        (("list", "--sort="), ["--sort=name", "--sort=size", "--sort=computed"]),
        (("list", "--sort", "=", "c"), ["computed"]),
        (("list", "--region", "e"), ["eu"]),
        (("--json", "us"), ["usage"]),
        (("completion", ""), ["bash", "zsh", "fish"]),
        (("export", "x", "-o", ""), [":files"]),
        (("upload", "Name", ""), [":files"]),
        (("upload", ""), []),
        (("usage", ""), []),
        (("list", "--name", ""), []),
        (("nothing", "x", ""), []),
        (("diff", "a", ""), [":files"]),
    ],
)
def test_words_of_the_command(offered, words: tuple[str, ...], expected: list[str]):
    """Commands, options, choices; files are the shell's own."""
    found = offered(*words)

    assert expected == [each for each in found if each in expected]
    assert not expected or expected == found


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize(
    "words",
    [
        ("export", ""),
        ("export", "9apg8e8", ""),
        ("show", ""),
        ("sync", ""),
        ("members", "add", ""),
        ("upload", "x", "ids.txt", "--replace", ""),
    ],
)
def test_cohorts_that_were_listed(offered, words: tuple[str, ...]):
    """Wherever a command takes one."""
    assert ["26umsb5", "9apg8e8"] == offered(*words)


@pytest.mark.usefixtures("listed")
def test_tab_asks_nobody(offered, monkeypatch: pytest.MonkeyPatch):
    """No socket is opened, and no program is run."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("TAB reads local files alone")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)

    assert ["26umsb5"] == offered("export", "2")


@pytest.mark.usefixtures("listed")
def test_a_name_is_one_clean_line(capsys: pytest.CaptureFixture[str]):
    """It is of anybody's making; a shell gets it as a description only."""
    main(["__complete", "export", "9"])

    assert "9apg8e8\t$(id) `x`  [2J\n" == capsys.readouterr().out


@pytest.mark.usefixtures("listed")
@pytest.mark.posix
def test_what_is_kept_is_ours_alone(cache: Path):
    """A file of mode 0600 for each project, without a key."""
    (file,) = cache.iterdir()

    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    assert "key" not in file.name + file.read_text()


@pytest.mark.usefixtures("listed")
def test_another_project_has_other_cohorts(offered, monkeypatch: pytest.MonkeyPatch):
    """Told apart by region and key, and by the options that are typed."""
    assert [] == offered("export", "--region", "eu", "")
    monkeypatch.setenv("AMPLITUDE_API_KEY", "another")
    assert [] == offered("export", "")


@pytest.mark.usefixtures("listed")
@pytest.mark.posix
def test_old_ones_are_not_offered(offered, cache: Path):
    """After a week; nor those of a file that others can write to."""
    (file,) = cache.iterdir()
    document = json.loads(file.read_text())
    file.write_text(json.dumps(document | {"at": time.time() - 8 * 86_400}))
    assert [] == offered("export", "")

    file.write_text(json.dumps(document))
    assert 2 == len(offered("export", ""))
    file.chmod(0o606)
    assert [] == offered("export", "")


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize("text", ["", "{", "[]", '{"at": 1}', '{"at": "x"}'])
def test_a_file_that_is_broken_offers_nothing(offered, cache: Path, text: str):
    """And is no error."""
    (file,) = cache.iterdir()
    file.write_text(text)

    assert [] == offered("export", "")


def test_an_id_that_a_shell_might_run_is_not_offered(
    command, offered, cohorts_emulator: CohortsEmulator
):
    """None has such an id; a server could say so."""
    for each in ("a;id", "$(id)", "ok_1-2"):
        cohorts_emulator.add_cohort(each, members=["ann"])
    command("list")

    assert ["ok_1-2"] == offered("export", "")


def test_a_cache_that_cannot_be_made_is_no_failure(
    command, cohorts_emulator, data_folder: Path
):
    """The list is what was asked for."""
    (data_folder.parents[1] / "cache").write_text("")

    assert 0 == command("list").code


@pytest.mark.posix
def test_profiles_are_completed(offered, command, monkeypatch, data_folder: Path):
    """And so is a profile's project."""
    folder = data_folder.parents[1] / "config" / "amplitude-cohorts"
    folder.mkdir(parents=True, mode=0o700)
    file = folder / "profiles.toml"
    file.write_text('[profiles.shop]\nregion = "eu"\napi_key = "k"\n')
    file.chmod(0o600)

    assert ["shop"] == offered("list", "--profile", "")
    assert ["shop"] == offered("profiles", "remove", "")
    assert [] == offered("export", "--profile", "shop", "")
    assert [] == offered("export", "--profile", "nope", "")


def test_the_script_as_json(command):
    """As every command."""
    document = json.loads(command("completion", "fish", "--json").out)

    assert "fish" == document["completion"]["shell"]
    assert 2 == command("completion", "tcsh").code


ASK = {
    "bash": 'source "$1"; shift; COMP_WORDS=(amplitude-cohorts "$@"); '
    "COMP_CWORD=$#; _amplitude_cohorts; printf '%s\\n' \"${COMPREPLY[@]}\"",
    "zsh": "compdef() { }; _files() { print :files }; "
    '_describe() { print -l -- "${(@P)2%%:*}" }; '
    'source "$1"; shift; words=(amplitude-cohorts "$@"); CURRENT=${#words}; '
    "_amplitude_cohorts",
}


@pytest.fixture
def asked(tmp_path: Path, command) -> Callable[..., list[str]]:
    """Ask a shell for what it offers, with the script that it is given."""
    program = tmp_path / "bin" / "amplitude-cohorts"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nexec {sys.executable} -m amplitude_cohorts_async "$@"\n'
    )
    program.chmod(0o700)
    path = os.pathsep.join(filter(None, sys.path))
    env = {
        **os.environ,
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": path,
    }

    def ask(shell: str, *words: str) -> list[str]:
        if (binary := shutil.which(shell)) is None:
            pytest.skip(f"{shell} is not here; `apt install {shell}` brings it")
        script = tmp_path / "script"
        script.write_text(command("completion", shell).out)
        if "fish" == shell:
            line = " ".join(["amplitude-cohorts", *words])
            start = ["-c", f"source {script}; complete -C {line!r}"]
        else:
            start = ["-c", ASK[shell], shell, str(script), *words]
        done = subprocess.run(
            [binary, *start], env=env, check=True, capture_output=True, text=True
        )
        assert "" == done.stderr
        return [each.partition("\t")[0] for each in done.stdout.split("\n") if each]

    return ask


@pytest.mark.slow
@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.posix
def test_a_shell_offers_them(asked, shell: str, tmp_path: Path, monkeypatch):
    """With the script that the command prints, as a user has it."""
    (tmp_path / "files").mkdir()
    monkeypatch.chdir(tmp_path / "files")
    Path("ids.txt").touch()

    assert ["26umsb5", "9apg8e8"] == sorted(asked(shell, "export", ""))
    assert ["export"] == asked(shell, "expo")
    files = asked(shell, "diff", "")
    assert [":files" if "zsh" == shell else "ids.txt"] == files
