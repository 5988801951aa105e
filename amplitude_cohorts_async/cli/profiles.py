"""The commands about profiles: profiles list, add, default, remove."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import typer

from .. import CohortsClient
from ..errors import InvalidInputError
from . import render
from .common import Output
from .profile_file import (
    Profile,
    Profiles,
    profile_path,
    read_profiles,
    write_profiles,
)

__all__ = ("add", "list_profiles", "make_default", "profiles", "remove")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the profile.")]


def profiles(output: Output, context: typer.Context) -> None:
    """Keep keys and region of several projects; see --profile."""
    if context.invoked_subcommand is None:
        list_profiles(output)
    elif output != Output():
        raise typer.BadParameter(
            f"put options after the whole command: profiles "
            f"{context.invoked_subcommand} ..."
        )


def list_profiles(output: Output) -> None:
    """List the profiles; shows no key."""
    found = read_profiles()
    output.print("profiles", _facts(found), lambda _: _show(found))

    if not found.by_name:
        output.note("No profiles yet: `amplitude-cohorts profiles add NAME` makes one.")


def add(
    output: Output,
    name: Name,
    *,
    region: Annotated[
        str | None,
        typer.Option(metavar="us|eu", help="Where the project's data is stored."),
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(metavar="URL", help="A server instead of a region.")
    ] = None,
    secret_key_env: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Read the secret key from this environment variable."
        ),
    ] = None,
    secret_key_command: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="Read the secret key from the first line that this program prints; it "
            "is run without a shell.",
        ),
    ] = None,
    no_secret_key: Annotated[
        bool,
        typer.Option(
            "--no-secret-key", help="Keep none: --secret-key-stdin gives it each time."
        ),
    ] = False,
    app_id: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="The project, for uploads.")
    ] = None,
    owner: Annotated[
        str | None, typer.Option(metavar="EMAIL", help="Of uploaded cohorts.")
    ] = None,
    default: Annotated[
        bool,
        typer.Option(
            "--default",
            help="Use it where neither --profile nor the environment says otherwise; "
            "the first one is.",
        ),
    ] = False,
) -> None:
    """
    Add a profile, or replace the one of this name.

    The keys are asked for, or read from stdin: the API key in the first line, the
    secret key in the second.
    """
    if sum((secret_key_env is not None, bool(secret_key_command), no_secret_key)) > 1:
        raise typer.BadParameter(
            "pass one of --secret-key-env, --secret-key-command and --no-secret-key"
        )

    if (region is None) == (base_url is None):
        raise typer.BadParameter(
            "pass --region us or --region eu, where the project's data is stored (or "
            "a --base-url)"
        )

    known = read_profiles()
    is_kept = secret_key_env is None and not secret_key_command and not no_secret_key
    api_key = _asked("API key", hidden=False)
    secret_key = _asked("Secret key", hidden=True) if is_kept else None
    profile = Profile(
        api_key=api_key,
        region=None if region is None else region.lower(),
        base_url=base_url,
        secret_key=secret_key,
        secret_key_env=secret_key_env,
        secret_key_command=_words(secret_key_command),
        app_id=app_id,
        owner=owner,
    )
    _check(profile)
    changed = known.with_profile(name, profile, is_default=default)
    write_profiles(changed)
    _tell(output, changed)
    output.note(f"`amplitude-cohorts doctor --profile {name}` tries it.")


def make_default(output: Output, name: Name) -> None:
    """Use a profile where neither --profile nor the environment says otherwise."""
    known = read_profiles()
    known.named(name)
    changed = Profiles(by_name=known.by_name, default=name)
    write_profiles(changed)
    _tell(output, changed)


def remove(output: Output, name: Name) -> None:
    """Remove a profile and its keys from the file."""
    changed = read_profiles().without(name)
    write_profiles(changed)
    _tell(output, changed)


def _tell(output: Output, changed: Profiles) -> None:
    output.print("profiles", _facts(changed), lambda _: _show(changed))


def _asked(what: str, *, hidden: bool) -> str:
    if sys.stdin.isatty():
        return str(typer.prompt(what, hide_input=hidden, err=True)).strip()

    if text := sys.stdin.readline().strip():
        return text

    raise InvalidInputError(
        f"stdin has no {what}: the first line is the API key, the second the secret key"
    )


def _words(command: str | None) -> tuple[str, ...] | None:
    if command is None:
        return None

    try:
        words = tuple(shlex.split(command))
    except ValueError:
        words = ()

    if not words:
        raise typer.BadParameter("the command has no program, or a quote is not closed")

    return words


def _check(profile: Profile) -> None:
    # By the rules of the client, which says what is wrong; nothing is sent.
    CohortsClient(
        profile.api_key,
        profile.secret_key or "unknown",
        region=profile.region or "us",
        base_url=profile.base_url,
        app_id=profile.app_id,
        owner=profile.owner,
    )


def _facts(found: Profiles) -> dict[str, object]:
    return {
        "path": profile_path(),
        "default": found.default,
        "profiles": [
            {
                "name": name,
                "region": each.region,
                "base_url": each.base_url,
                "secret_key": each.kept_in,
                "app_id": each.app_id,
                "owner": each.owner,
            }
            for name, each in found.by_name.items()
        ],
    }


def _show(found: Profiles) -> None:
    if not found.by_name:
        return

    render.table(
        ["PROFILE", "REGION", "DEFAULT", "SECRET KEY", "APP ID"],
        [
            [
                name,
                each.region or each.base_url,
                name == found.default,
                each.kept_in,
                each.app_id,
            ]
            for name, each in found.by_name.items()
        ],
    )
