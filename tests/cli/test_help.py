"""Every command explains itself, and the page about them is current."""

from __future__ import annotations

import re

import pytest

from amplitude_cohorts_async import __version__
from cli.reference import PAGE, commands, current

NAMES = dict(commands())
TYPE = re.compile(r"<[a-z ]+>")
"""As Python calls it, and nobody who types."""


@pytest.mark.parametrize("name", NAMES)
def test_help_explains_every_option(command, name: str):
    """A command has a sentence, and so has each of its options and arguments."""
    code, out, err = command(*name.split()[1:], "--help")

    assert (0, "") == (code, err)
    assert NAMES[name].help.splitlines()[0] in " ".join(out.split())
    assert [] == [param.name for param in NAMES[name].params if not param.help]
    assert [] == TYPE.findall(out)


def test_no_option_takes_a_key():
    """Arguments can be read by other users of the machine."""
    options = {name for each in NAMES.values() for p in each.params for name in p.opts}
    about_keys = {name for name in options if "key" in name or "secret" in name}

    # A switch, and where the key is; none has one as its value.
    names = {"--secret-key-env", "--secret-key-command", "--no-secret-key"}
    assert {"--secret-key-stdin", "--private-key", *names} == about_keys


def test_every_command_prints_json():
    """--json is an option of every command."""
    without = [
        name
        for name, each in NAMES.items()
        if not any("--json" in param.opts for param in each.params)
    ]

    assert [] == without


def test_the_page_is_current():
    """`python tests/cli/reference.py` writes it."""
    page = PAGE.read_text()

    assert current(page) == page


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_the_command_alone_shows_what_there_is(command, words: tuple[str, ...]):
    """Each command is there with its sentence."""
    code, out, err = command(*words)

    assert (0, "") == (code, err)
    assert [] == [name for name in NAMES if f" {name.split()[1]} " not in out]
    assert [] == TYPE.findall(out)


def test_version(command):
    """--version tells which release this is."""
    assert (0, f"{__version__}\n", "") == command("--version")
