"""Where keys and region come from: one source, never a mixture of two."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from typing import Final

import attrs

from ..errors import ConfigurationError
from .profile_file import Profile, read_profiles

__all__ = ("ENVIRONMENT", "ClientSettings", "project_hash", "resolve_settings")

ENVIRONMENT: Final = "environment"

_VARIABLES = tuple(
    f"AMPLITUDE_{name}" for name in ("API_KEY", "SECRET_KEY", "REGION", "BASE_URL")
)
_COMMAND_SECONDS = 60.0


@attrs.frozen(kw_only=True)
class ClientSettings:
    """
    What a client takes from one source.

    Attributes:
        source: "environment", or "profile NAME".
        region: By name; of no use beside a base_url.
        keywords: Of `CohortsClient.from_env()`, which they override.
    """

    source: str
    region: str
    base_url: str | None
    keywords: dict[str, object] = attrs.field(repr=False)


def resolve_settings(
    name: str | None,
    *,
    region: str | None,
    base_url: str | None,
    secret_key_stdin: bool,
) -> ClientSettings:
    """
    Return keys and region: of the profile, else the environment, else the default one.

    A variable that is set makes the environment the source of all of them.

    Args:
        name: The profile that the user names.
        region: The option; like *base_url* only without a profile.

    Raises:
        ConfigurationError: There is no such profile, or it cannot be used.
    """
    profile_name, profile = _chosen_profile(name)

    if profile is None:
        return _of_environment(
            region, base_url, _first_line() if secret_key_stdin else None
        )

    if region is not None or base_url is not None:
        raise ConfigurationError(
            f"--region and --base-url do not go with profile {profile_name}, which has "
            f"its own: leave them out, or use another profile"
        )

    return ClientSettings(
        source=f"profile {profile_name}",
        region=profile.region or "us",
        base_url=profile.base_url,
        keywords={
            "api_key": profile.api_key,
            "secret_key": _secret_of(str(profile_name), profile, secret_key_stdin),
            "region": profile.region or "us",
            "base_url": profile.base_url,
            # Those of the environment may be of another project.
            "app_id": profile.app_id,
            "owner": profile.owner,
        },
    )


def project_hash(name: str | None, *, region: str | None, base_url: str | None) -> str:
    """
    Return a hash that stands for the project in names of files; asks no command.

    Args:
        name: The options, as for `resolve_settings()`.
    """
    _, profile = _chosen_profile(name)

    if profile is None:
        place = base_url or region or os.environ.get("AMPLITUDE_BASE_URL")
        place = place or os.environ.get("AMPLITUDE_REGION") or "us"
        key = os.environ.get("AMPLITUDE_API_KEY", "")
    else:
        place, key = str(profile.base_url or profile.region), profile.api_key

    return hashlib.sha256(f"{place.lower()}\n{key}".encode()).hexdigest()[:16]


def _chosen_profile(name: str | None) -> tuple[str | None, Profile | None]:
    if name is not None:
        return name, read_profiles().named(name)

    if any(map(os.environ.get, _VARIABLES)):
        return None, None

    profiles = read_profiles()

    if profiles.default is None:
        return None, None

    return profiles.default, profiles.named(profiles.default)


def _of_environment(
    region: str | None, base_url: str | None, secret_key: str | None
) -> ClientSettings:
    keywords: dict[str, object] = {}
    variable = os.environ.get("AMPLITUDE_BASE_URL") or None

    if region is not None:
        # An option overrides every environment variable.
        keywords |= {"region": region, "base_url": None}
        variable = None

    if base_url is not None:
        keywords["base_url"] = base_url

    if secret_key is not None:
        keywords["secret_key"] = secret_key

    return ClientSettings(
        source=ENVIRONMENT,
        region=region or os.environ.get("AMPLITUDE_REGION") or "us",
        base_url=base_url or variable,
        keywords=keywords,
    )


def _secret_of(name: str, profile: Profile, secret_key_stdin: bool) -> str:
    if secret_key_stdin:
        if profile.kept_in != "stdin":
            raise ConfigurationError(
                f"profile {name} has its secret key (by {profile.kept_in}): leave "
                f"--secret-key-stdin out"
            )
        return _first_line()

    if profile.secret_key is not None:
        return profile.secret_key

    if profile.secret_key_env is not None:
        if secret := os.environ.get(profile.secret_key_env):
            return secret
        raise ConfigurationError(
            f"the environment variable {profile.secret_key_env}, which profile {name} "
            f"names for its secret key, is not set"
        )

    if profile.secret_key_command is not None:
        return _said_by(name, profile.secret_key_command)

    raise ConfigurationError(
        f"profile {name} has no secret key: pass it with --secret-key-stdin"
    )


def _said_by(name: str, words: tuple[str, ...]) -> str:
    # Neither what it was called with nor what it said is shown: both may be secret.
    # Its stdin is not ours, which may hold ids.
    what = f"the command of profile {name} that tells its secret key"

    try:
        done = subprocess.run(  # noqa: S603 - from a file that is ours alone
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConfigurationError(
            f"{what} did not end within {_COMMAND_SECONDS:.0f} s"
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"{what} cannot be run: {error.strerror or 'it is no program'}"
        ) from None

    secret = done.stdout.decode(errors="replace").partition("\n")[0].strip()

    if done.returncode or not secret:
        raise ConfigurationError(
            f"{what} "
            + (
                f"failed with code {done.returncode}"
                if done.returncode
                else "said none"
            )
        )

    return secret


def _first_line() -> str:
    return sys.stdin.readline().strip()
