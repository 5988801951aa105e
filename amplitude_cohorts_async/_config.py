"""The configuration of a client, from keywords and the environment, checked."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import aiohttp
import attrs

from ._core.links import is_loopback
from ._core.secret import Secret
from ._io.http.proxies import FROM_ENVIRONMENT, Proxies
from ._io.jobs.base import JobStore
from ._io.limits.base import Limiter
from ._store_urls import checked_path_or_url
from .errors import ConfigurationError
from .limits import DOCUMENTED, Limits
from .models import Region, Routes
from .policies import Downloading, Polling, Retrying

if TYPE_CHECKING:  # each class costs half a millisecond
    from ._io.context import Clock
    from .events import EventHook

_WEB_APP = "analytics.amplitude.com"
_ENDPOINTS = re.compile(r"/api/[35](/cohorts)?/*$")
_LARGEST_APP_ID = 2**63
_LONGEST_APP_ID = 19
_ALL_BITS = 0o777

SECRETS = frozenset(
    {"api_key", "secret_key", "base_url", "proxy", "jobs", "limiter_url"}
)
"""Arguments that may hold a key or a password."""


def _check_key(_: ClientConfig, field: attrs.Attribute[str], key: object) -> None:
    what = field.name.replace("_", " ").replace("api", "API")

    if not isinstance(key, str) or not key:
        raise ConfigurationError(
            f"the {what} is missing; pass it, or set AMPLITUDE_{field.name.upper()} and "
            f"use `CohortsClient.from_env()`"
        )

    if not key.isascii() or not key.isprintable() or " " in key or ":" in key:
        raise ConfigurationError(
            f"the {what} holds a character that no key has (white space, a colon or one "
            f"beyond ASCII); copy it again from the project's settings"
        )


def _checked_region(region: object) -> Region:
    if isinstance(region, Region):
        return region

    try:
        return Region[str(region).upper()]
    except KeyError:
        raise ConfigurationError(
            f"{region!r} is not a region; pass 'us' or 'eu', or a base_url"
        ) from None


def _checked_origin(config: ClientConfig) -> str:
    base_url: object = config.base_url

    if base_url is None:
        return config.region.value

    if not isinstance(base_url, str):
        raise ConfigurationError(
            f"base_url must be a string, got a {type(base_url).__name__}"
        )

    try:
        parts = urlsplit(base_url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        # The error's own text quotes a part, which may be of a password.
        raise ConfigurationError(
            "base_url is not a URL: its port is not a number, or a bracket is not closed"
        ) from None

    if parts.scheme not in {"http", "https"} or not host:
        raise ConfigurationError(
            "base_url needs a scheme and a host, as in https://amplitude.com"
        )

    if parts.query or parts.fragment or "@" in base_url:
        raise ConfigurationError(
            "base_url may hold only scheme, host, port and path; pass the keys as "
            "api_key and secret_key"
        )

    if host.rstrip(".") == _WEB_APP:
        # https://amplitude.com/docs/apis/analytics/behavioral-cohorts#regions
        raise ConfigurationError(
            f"{_WEB_APP} is the web app, not the API; use https://amplitude.com, or "
            f"region='eu'"
        )

    if _ENDPOINTS.search(parts.path):
        raise ConfigurationError(
            "base_url ends in a path of the API, which the client appends itself; pass "
            "only what comes before /api, as in https://amplitude.com"
        )

    if parts.scheme == "http" and not (config.allow_http or is_loopback(host)):
        raise ConfigurationError(
            f"http://{host} would carry the keys unencrypted; use https, or pass "
            f"allow_http=True if you trust the network"
        )

    return base_url.rstrip("/")


def _checked_app_id(app_id: object) -> int | None:
    if app_id is None:
        return None

    text = "" if isinstance(app_id, bool) else str(app_id)
    is_number = text.isascii() and text.isdecimal() and len(text) <= _LONGEST_APP_ID

    if not is_number or not 0 < int(text) < _LARGEST_APP_ID:
        raise ConfigurationError(
            f"app_id is the project's number, as in 123456, positive and below 2**63; "
            f"got {app_id!r}; find it in the project's settings or in `list_cohorts()`"
        )

    return int(text)


def _checked_owner(owner: object) -> str | None:
    if owner is None:
        return None

    if not isinstance(owner, str) or not owner.strip():
        raise ConfigurationError(
            f"owner is {owner!r}; pass the login email of the cohort's owner, or leave "
            f"it out"
        )
    return owner


def _checked_routes(routes: object) -> Routes:
    try:
        return Routes(routes)
    except ValueError:
        raise ConfigurationError(
            f"routes is {routes!r}; pass Routes.VENDOR or Routes.OPENAPI"
        ) from None


def _check_seconds(
    _: ClientConfig, field: attrs.Attribute[float], seconds: float
) -> None:
    if not 0 < seconds < math.inf:
        raise ConfigurationError(
            f"{field.name} must be a finite number of seconds above zero, got {seconds!r}"
        )


def _checked_proxy(proxy: object) -> str | None:
    # The message shows no part of the URL, which may hold a password.
    if proxy is None:
        return None
    if proxy == FROM_ENVIRONMENT:
        return FROM_ENVIRONMENT
    if isinstance(proxy, str) and (url := _proxy_url(proxy)) is not None:
        return url

    raise ConfigurationError(
        "proxy is not the URL of an HTTP proxy; pass scheme, host and port, as in "
        "http://proxy.example.com:8080, with a user name and a password in front "
        "of the host if it needs them, percent-encoded; or 'env' for those of the "
        "environment"
    )


def _proxy_url(proxy: str) -> str | None:
    if proxy.isprintable() and " " not in proxy:
        with suppress(ValueError):
            parts = urlsplit(proxy)
            # A "/" in a password that is not percent-encoded begins a path.
            is_bare = not (parts.path.strip("/") or parts.query or parts.fragment)
            has_address = bool(parts.hostname) and parts.port != 0

            if parts.scheme in {"http", "https"} and has_address and is_bare:
                return parts.geturl()

    return None


def _checked_proxies(config: ClientConfig) -> Proxies:
    if config.proxy is None:
        return Proxies()

    if config.proxy != FROM_ENVIRONMENT:
        return Proxies({"all": Secret(config.proxy)})

    found = Proxies.of_environment()

    for name, proxy in found.by_scheme.items():
        if _proxy_url(proxy) is None:
            raise ConfigurationError(
                f"the proxy in {name.upper()}_PROXY is not the URL of an HTTP proxy, as "
                f"http://proxy.example.com:8080; mend it, or leave out proxy='env'"
            )

    return found


def _check_session(
    _: ClientConfig, __: object, session: aiohttp.ClientSession | None
) -> None:
    if session is not None and session.auth is not None:
        raise ConfigurationError(
            "the session has credentials of its own (auth=), and the keys could not "
            "be sent beside them; make a session without auth="
        )


def _check_file_mode(_: ClientConfig, __: object, mode: int | None) -> None:
    if mode is not None and (type(mode) is not int or not 0 <= mode <= _ALL_BITS):
        raise ConfigurationError(
            f"file_mode holds permission bits, as in 0o640, from 0 to 0o777; got "
            f"{oct(mode) if isinstance(mode, int) else repr(mode)}"
        )


def _checked_store(jobs: object) -> JobStore | Path | str | None:
    if jobs is None or isinstance(jobs, JobStore):
        return jobs

    try:
        text = os.fsdecode(cast("str", jobs))
    except TypeError:
        text = ""

    if not text:
        raise ConfigurationError(
            f"jobs is {_kind(jobs)}; pass a path, a URL as a text, or an instance of a "
            f"subclass of jobs.JobStore"
        )

    return checked_path_or_url(text)


def _kind(jobs: object) -> str:
    # Without its value: that of a URL, of whatever library, may hold a password.
    return "empty" if isinstance(jobs, str | bytes) else f"a {type(jobs).__name__}"


@attrs.frozen(kw_only=True)
class ClientConfig:
    """
    The arguments of a client, checked.

    Attributes:
        base_url: A server to use instead of the region's.
        origin: Scheme, host, port and path prefix, with no slash at the end.
        jobs: A store, or where to make one: a file, or the URL of a server.
    """

    api_key: str = attrs.field(repr=False, validator=_check_key)
    secret_key: str = attrs.field(repr=False, validator=_check_key)
    region: Region = attrs.field(converter=_checked_region)
    base_url: str | None = attrs.field(repr=False)
    allow_http: bool
    origin: str = attrs.field(
        init=False, default=attrs.Factory(_checked_origin, takes_self=True)
    )
    app_id: int | None = attrs.field(converter=_checked_app_id)
    owner: str | None = attrs.field(converter=_checked_owner)
    limits: Limits
    limiter: Limiter | None
    jobs: JobStore | Path | str | None = attrs.field(
        repr=False, converter=_checked_store
    )
    allowances: Mapping[str, int]
    routes: Routes = attrs.field(converter=_checked_routes)
    session: aiohttp.ClientSession | None = attrs.field(validator=_check_session)
    proxy: str | None = attrs.field(repr=False, converter=_checked_proxy)
    proxies: Proxies = attrs.field(
        init=False, default=attrs.Factory(_checked_proxies, takes_self=True)
    )
    file_mode: int | None = attrs.field(validator=_check_file_mode)
    hook: EventHook | None
    clock: Clock | None
    polling: Polling
    retrying: Retrying
    downloading: Downloading
    timeout: float = attrs.field(validator=_check_seconds)
    stall_timeout: float = attrs.field(validator=_check_seconds)
    rng: Callable[[], float]

    @property
    def app(self) -> str:
        """A hash that names the app to its limiter."""
        text = f"{self.origin}\n{self.api_key}".encode()
        return hashlib.sha256(text).hexdigest()[:16]


def agreed_limits(limits: Limits | None, limiter: Limiter | None) -> Limits:
    """Return the limits of a client; `ConfigurationError` if they are stated twice."""
    if limiter is None:
        return limits or DOCUMENTED

    if not isinstance(limiter, Limiter):
        raise ConfigurationError(
            f"limiter is a {type(limiter).__name__}; pass a LocalLimiter, a RedisLimiter, "
            f"a PostgresLimiter or an instance of your own subclass of limiters.Limiter"
        )

    stated = limiter.limits
    if limits is not None and stated is not None:
        raise ConfigurationError(
            f"limits= and a {type(limiter).__name__} with limits of its own exclude "
            f"each other; pass the limits to the limiter alone"
        )

    return stated or limits or DOCUMENTED


def from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the keywords that variables set; empty variables count as unset."""
    keywords = (
        *("api_key", "secret_key", "region", "base_url", "app_id", "owner", "jobs"),
    )
    values = {key: environ.get(f"AMPLITUDE_{key.upper()}") for key in keywords}

    return {
        key: Secret(value) if key in SECRETS else value
        for key, value in values.items()
        if value
    }
