"""The file of profiles: read only if it is ours alone, written with mode 0600."""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import attrs
from platformdirs import user_config_path

from ..errors import ConfigurationError
from .private_files import is_own, is_private, write_private

__all__ = ("Profile", "Profiles", "profile_path", "read_profiles", "write_profiles")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LARGEST = 1 << 20
"""Bytes of a file that is read."""

_HEAD = (
    "# Profiles of amplitude-cohorts; `amplitude-cohorts profiles` writes this file.\n"
    "# It must stay yours alone: chmod 600.\n"
)


def _check_variable(_: Profile, __: object, name: str | None) -> None:
    if name is not None and not _VARIABLE.fullmatch(name):
        # Not shown: it may be the key itself, in the wrong place.
        raise ConfigurationError(
            "secret_key_env is the name of an environment variable, and not its value"
        )


@attrs.frozen(kw_only=True)
class Profile:
    """
    Keys, region and project that belong together.

    The secret key is in exactly one of three places, or is given at each call by
    ``--secret-key-stdin``.

    Attributes:
        secret_key_env: The environment variable that holds it.
        secret_key_command: A program and its arguments, whose first line it is.
    """

    api_key: str = attrs.field(repr=False)
    region: str | None = None
    base_url: str | None = None
    secret_key: str | None = attrs.field(default=None, repr=False)
    secret_key_env: str | None = attrs.field(default=None, validator=_check_variable)
    secret_key_command: tuple[str, ...] | None = attrs.field(default=None, repr=False)
    app_id: int | None = None
    owner: str | None = None

    def __attrs_post_init__(self) -> None:
        sources = (self.secret_key, self.secret_key_env, self.secret_key_command)

        if sum(source is not None for source in sources) > 1:
            raise ConfigurationError(
                "the secret key has several sources; keep one of secret_key, "
                "secret_key_env and secret_key_command"
            )

        if (self.region is None) == (self.base_url is None):
            raise ConfigurationError("it needs either a region or a base_url")

    @property
    def kept_in(self) -> str:
        """Where the secret key comes from, in words."""
        if self.secret_key is not None:
            return "file"

        if self.secret_key_env is not None:
            return f"variable {self.secret_key_env}"

        return "command" if self.secret_key_command is not None else "stdin"


@attrs.frozen(kw_only=True)
class Profiles:
    """
    All profiles by name.

    Attributes:
        default: The one that is used without a name.
    """

    by_name: Mapping[str, Profile] = attrs.field(factory=dict[str, Profile])
    default: str | None = None

    def named(self, name: str) -> Profile:
        """Return a profile; `ConfigurationError` if there is none of this name."""
        if (found := self.by_name.get(name)) is not None:
            return found

        known = self._known
        raise ConfigurationError(
            f"there is no profile {name!r} (known: {known}); "
            f"`amplitude-cohorts profiles add {name}` makes it"
            if _NAME.fullmatch(name)
            else f"{name!r} is no name of a profile: letters, digits, - _ and ."
        )

    @property
    def _known(self) -> str:
        return ", ".join(self.by_name) or "none yet"

    def with_profile(
        self, name: str, profile: Profile, *, is_default: bool
    ) -> Profiles:
        """Return these with another one; the first one is the default."""
        if not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"{name!r} cannot name a profile: use letters, digits, - _ and ."
            )

        return Profiles(
            by_name={**self.by_name, name: profile},
            default=name if is_default or not self.by_name else self.default,
        )

    def without(self, name: str) -> Profiles:
        """
        Return these without one; if it is the default, there is none then.

        Raises:
            ConfigurationError: There is none of this name.
        """
        if name not in self.by_name:
            raise ConfigurationError(
                f"there is no profile {name!r} to remove (known: {self._known})"
            )

        return Profiles(
            by_name={key: each for key, each in self.by_name.items() if key != name},
            default=None if self.default == name else self.default,
        )


def profile_path() -> Path:
    """Return where the file is, or would be."""
    return user_config_path("amplitude-cohorts", appauthor=False) / "profiles.toml"


def read_profiles() -> Profiles:
    """
    Return the profiles of this user; none if there is no file.

    Raises:
        ConfigurationError: The file belongs to or is open to somebody else, or is
            not as it should be.
    """
    path = profile_path()

    try:
        with path.open("rb") as file:
            _check_is_ours(path, os.fstat(file.fileno()))
            content = file.read(_LARGEST)
    except FileNotFoundError:
        return Profiles()
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error.strerror or error}"
        ) from None

    try:
        return _parsed(tomllib.loads(content.decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        # Without the error's text and frames, which may hold a key.
        raise ConfigurationError(
            f"{path} is not valid TOML; mend it, or remove it and add the profiles again"
        ) from None
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None


def write_profiles(profiles: Profiles) -> None:
    """Replace the file as a whole; nobody else can read it at any moment."""
    # Whoever keeps it elsewhere, by a symbolic link, keeps the link.
    path = Path(os.path.realpath(profile_path()))

    try:
        write_private(path, _HEAD + _text(profiles))
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be written: {error.strerror or error}"
        ) from None


def _check_is_ours(path: Path, facts: os.stat_result) -> None:
    # A program of somebody else's must not run as us, nor a key go to their host.
    if not is_own(facts):
        raise ConfigurationError(
            f"{path} belongs to another user, so its keys and commands are not used"
        )

    if not is_private(facts):
        raise ConfigurationError(
            f"{path} is open to other users, so its keys and commands are not used; "
            f"run `chmod 600` on it, and change the keys if others may have read them"
        )

    # That of the file, and that of a symbolic link to it.
    for folder in {path.parent.resolve(), path.resolve().parent}:
        _check_folder(folder)


def _check_folder(folder: Path) -> None:
    if not hasattr(os, "geteuid"):  # Windows: the profile folder is the user's own
        return

    # Whoever can write there can put another file of ours in the place.
    facts = folder.stat()
    is_sticky = facts.st_mode & stat.S_ISVTX
    is_writable = facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not is_sticky

    if facts.st_uid not in {0, os.geteuid()} or is_writable:
        raise ConfigurationError(
            f"other users can write to {folder}, so the keys and commands in it are "
            f"not used; run `chmod go-w` on it"
        )


def _parsed(document: Mapping[str, object]) -> Profiles:
    default = document.get("default")
    tables = document.get("profiles", {})

    if set(document) - {"default", "profiles"}:
        raise ConfigurationError(
            "it may hold only `default` and tables [profiles.NAME]"
        )

    if not isinstance(tables, dict) or not isinstance(default, str | None):
        raise ConfigurationError("it needs a text `default` and tables [profiles.NAME]")

    found = {
        str(name): _profile(str(name), table)
        for name, table in cast("dict[str, object]", tables).items()
    }

    return Profiles(by_name=found, default=default)


_KINDS: Mapping[str, type] = {
    **dict.fromkeys((each.name for each in attrs.fields(Profile)), str),
    "app_id": int,
    "secret_key_command": list,
}


def _profile(name: str, table: object) -> Profile:
    if not isinstance(table, dict):
        raise ConfigurationError(f"profile {name} is not a table")

    values = cast("dict[str, object]", table)

    # A misspelt region would send the keys elsewhere.
    if unknown := sorted(values.keys() - _KINDS.keys()):
        raise ConfigurationError(f"profile {name} has the unknown key {unknown[0]!r}")

    for key, value in values.items():
        if type(value) is not _KINDS[key] or not value:
            raise ConfigurationError(
                f"profile {name}: {key} has to be a {_KINDS[key].__name__} that is not "
                f"empty"
            )

    if "api_key" not in values:
        raise ConfigurationError(f"profile {name} has no api_key")

    if isinstance(words := values.get("secret_key_command"), list):
        values = {
            **values,
            "secret_key_command": _words(name, cast("list[object]", words)),
        }

    try:
        return Profile(**values)  # type: ignore[arg-type]
    except ConfigurationError as error:
        raise ConfigurationError(f"profile {name}: {error}") from None


def _words(name: str, words: list[object]) -> tuple[str, ...]:
    if not all(isinstance(word, str) for word in words):
        raise ConfigurationError(
            f"profile {name}: secret_key_command is a list of texts: a program and its "
            f"arguments"
        )

    return tuple(map(str, words))


def _text(profiles: Profiles) -> str:
    lines: list[str] = []

    if profiles.default is not None:
        lines.append(f"default = {_toml(profiles.default)}")

    for name, profile in profiles.by_name.items():
        lines.append(f"\n[profiles.{_toml(name)}]")
        lines += [
            f"{field.name} = {_toml(value)}"
            for field in attrs.fields(Profile)
            if (value := getattr(profile, field.name)) is not None
        ]

    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    # A text of JSON is one of TOML, but for a DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
