"""A client that cannot work is refused before it exists, with what to do about it."""

from __future__ import annotations

import pytest

from amplitude_cohorts_async import CohortsClient, Region
from amplitude_cohorts_async._config import from_environment
from amplitude_cohorts_async.errors import ConfigurationError, InvalidInputError
from amplitude_cohorts_async.policies import Polling, Retrying
from support.canary import API_KEY, SECRET_KEY, find_secrets

VARIABLES = (
    "AMPLITUDE_API_KEY",
    "AMPLITUDE_SECRET_KEY",
    "AMPLITUDE_REGION",
    "AMPLITUDE_BASE_URL",
    "AMPLITUDE_APP_ID",
    "AMPLITUDE_OWNER",
)


def client(**options: object) -> CohortsClient:
    """Build a client, and nothing else."""
    keys = {"api_key": API_KEY, "secret_key": SECRET_KEY}

    return CohortsClient(**{**keys, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"api_key": ""}, "AMPLITUDE_API_KEY"),
        ({"api_key": None}, "AMPLITUDE_API_KEY"),
        ({"secret_key": ""}, "AMPLITUDE_SECRET_KEY"),
        ({"secret_key": "with space"}, "white space"),
        ({"secret_key": "line\n"}, "white space"),
        ({"api_key": "a:b"}, "colon"),
        ({"api_key": "schlüssel"}, "ASCII"),
        ({"api_key": b"key"}, "missing"),
        ({"region": "asia"}, "'us' or 'eu'"),
        ({"region": None}, "'us' or 'eu'"),
        ({"region": ""}, "'us' or 'eu'"),
        ({"base_url": "http://example.com"}, "allow_http"),
        ({"base_url": "http://10.0.0.1"}, "allow_http"),
        ({"base_url": "http://127.0.0.1.example.com"}, "allow_http"),
        ({"base_url": "example.com"}, "scheme and a host"),
        ({"base_url": "ftp://example.com"}, "scheme and a host"),
        ({"base_url": "https://"}, "scheme and a host"),
        ({"base_url": ""}, "scheme and a host"),
        ({"base_url": "https://key:word@example.com"}, "api_key"),
        ({"base_url": "https://example.com?x=1"}, "only scheme"),
        ({"base_url": "https://example.com#x"}, "only scheme"),
        ({"base_url": "https://example.com:99999"}, "not a URL"),
        ({"base_url": "https://[half"}, "not a URL"),
        ({"base_url": 7}, "string"),
        ({"base_url": "https://analytics.amplitude.com"}, "web app"),
        ({"base_url": "https://ANALYTICS.amplitude.com/"}, "web app"),
        ({"base_url": "https://analytics.amplitude.com."}, "web app"),
        ({"base_url": "https://analytics.amplitude.com.:443"}, "web app"),
        ({"base_url": "https://amplitude.com/api/3"}, "before /api"),
        ({"base_url": "https://example.com/a/api/5/"}, "before /api"),
        ({"base_url": "https://amplitude.com/api/3/cohorts"}, "before /api"),
        ({"app_id": "twelve"}, "number"),
        ({"app_id": True}, "number"),
        ({"app_id": 0}, "positive"),
        ({"app_id": -5}, "number"),
        ({"app_id": 2**63}, "positive"),
        ({"app_id": "1" * 5_000}, "number"),
        ({"owner": ""}, "email"),
        ({"owner": 7}, "email"),
        ({"routes": "elsewhere"}, "Routes"),
        ({"file_mode": 640}, "as in 0o640.* got 0o1200"),
        ({"file_mode": -1}, "file_mode"),
        ({"file_mode": "640"}, "file_mode.* got '640'"),
        ({"file_mode": True}, "file_mode"),
        ({"stall_timeout": 0}, "stall_timeout"),
        ({"stall_timeout": -1.0}, "stall_timeout"),
        ({"stall_timeout": float("nan")}, "stall_timeout"),
        ({"proxy": f"http://user:{SECRET_KEY}@proxy.example.com:port"}, "proxy"),
        ({"proxy": f"http://user:{SECRET_KEY}@proxy.example.com:99999"}, "proxy"),
        ({"proxy": f"http://user:8/{SECRET_KEY}@proxy.example.com"}, "proxy"),
        ({"proxy": f"user:{SECRET_KEY}@proxy.example.com:8080"}, "scheme"),
        ({"proxy": f"//user:{SECRET_KEY}@proxy.example.com:8080"}, "scheme"),
        ({"proxy": f"http://user:{SECRET_KEY}@[::1:8080"}, "proxy"),
        ({"proxy": f"socks5://user:{SECRET_KEY}@proxy.example.com"}, "HTTP proxy"),
        ({"proxy": f"http://user:{SECRET_KEY} @proxy.example.com"}, "proxy"),
        ({"proxy": f"http://user:{SECRET_KEY}@"}, "host"),
        ({"proxy": 8080}, "proxy"),
        ({"proxy": ""}, "proxy"),
        ({"base_url": f"https://user:8/{SECRET_KEY}@example.com"}, "api_key"),
        ({"base_url": f"https://user:{SECRET_KEY}/@example.com"}, "not a URL"),
    ],
)
def test_what_cannot_work(options: dict[str, object], words: str) -> None:
    """The message says what is wrong, and shows no key."""
    with pytest.raises(ConfigurationError, match=words) as caught:
        client(**options)

    assert [] == find_secrets(str(caught.value))
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("options", "origin"),
    [
        ({}, "https://amplitude.com"),
        ({"region": "us"}, "https://amplitude.com"),
        ({"region": "EU"}, "https://analytics.eu.amplitude.com"),
        ({"region": Region.EU}, "https://analytics.eu.amplitude.com"),
        ({"base_url": "https://example.com/"}, "https://example.com"),
        ({"base_url": "https://example.com/a/b/"}, "https://example.com/a/b"),
        ({"base_url": "https://example.com/api"}, "https://example.com/api"),
        ({"base_url": "https://example.com/api/3/b"}, "https://example.com/api/3/b"),
        ({"base_url": "https://amplitude.com."}, "https://amplitude.com."),
        ({"base_url": "http://127.0.0.1:8700"}, "http://127.0.0.1:8700"),
        ({"base_url": "http://localhost:8700"}, "http://localhost:8700"),
        ({"base_url": "http://[::1]:8700"}, "http://[::1]:8700"),
        (
            {"base_url": "http://example.com", "allow_http": True},
            "http://example.com",
        ),
        (
            {"base_url": "https://example.com", "region": "eu"},
            "https://example.com",
        ),
    ],
)
def test_what_works(options: dict[str, object], origin: str) -> None:
    """A region is a host; a base URL of the caller's own comes before it."""
    assert f"<CohortsClient of {origin}>" == repr(client(**options))


def test_keys_are_not_in_settings_that_are_shown() -> None:
    """Neither the settings nor the name that limits are kept by tell the keys."""
    config = client(app_id="153957", owner=" ann@example.com")._config

    assert [] == find_secrets(repr(config) + config.app)
    assert 153957 == config.app_id


def test_limits_belong_to_the_app() -> None:
    """The same API key at the same place is one app, whatever its secret."""
    names = {
        (key, secret, region): client(
            api_key=key, secret_key=secret, region=region
        )._config.app
        for key in ("key1", "key2")
        for secret in ("secret1", "secret2")
        for region in ("us", "eu")
    }

    assert 4 == len(set(names.values()))
    assert names["key1", "secret1", "us"] == names["key1", "secret2", "us"]


def test_the_environment() -> None:
    """Every variable has its keyword; an empty one counts as unset."""
    environ = {name: name.lower() for name in VARIABLES} | {"AMPLITUDE_OTHER": "x"}

    assert {
        "api_key": "amplitude_api_key",
        "secret_key": "amplitude_secret_key",
        "region": "amplitude_region",
        "base_url": "amplitude_base_url",
        "app_id": "amplitude_app_id",
        "owner": "amplitude_owner",
    } == from_environment(environ)
    assert {} == from_environment(dict.fromkeys(VARIABLES, ""))


def test_a_client_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keywords win over variables; a number in a variable is a number."""
    for name, value in zip(
        VARIABLES,
        (API_KEY, SECRET_KEY, "eu", "", "153957", "ann@example.com"),
        strict=True,
    ):
        monkeypatch.setenv(name, value)

    assert "analytics.eu" in repr(CohortsClient.from_env())
    assert "https://amplitude.com" in repr(CohortsClient.from_env(region="us"))
    assert 153957 == CohortsClient.from_env()._config.app_id
    monkeypatch.setenv("AMPLITUDE_REGION", "mars")
    with pytest.raises(ConfigurationError, match="'mars'"):
        CohortsClient.from_env()
    monkeypatch.delenv("AMPLITUDE_SECRET_KEY")
    with pytest.raises(ConfigurationError, match="AMPLITUDE_SECRET_KEY"):
        CohortsClient.from_env(region="us")


@pytest.mark.parametrize(
    "options",
    [
        {"initial_delay": -1.0},
        {"interval": 0.0},
        {"jitter": 1.0},
        {"jitter": -0.1},
        {"initial_delay": float("nan")},
    ],
)
def test_impossible_polling(options: dict[str, float]) -> None:
    """A schedule that never asks, or always, is none."""
    with pytest.raises(ConfigurationError):
        Polling(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": 0},
        {"wait_initial": -1.0},
        {"wait_max": -1.0},
        {"timeout": -1.0},
        {"max_retry_after": -1.0},
        {"wait_initial": float("nan")},
    ],
)
def test_impossible_retrying(options: dict[str, int]) -> None:
    """No attempt at all, or a wait into the past, is no policy."""
    with pytest.raises(ConfigurationError):
        Retrying(**options)


def test_a_token_of_another_region() -> None:
    """A job belongs to its region; a base URL of one's own may stand for any."""
    token = '{"version":1,"request_id":"Sf7M9j","region":"EU"}'

    assert "Sf7M9j" == client(region="eu").resume_export(token).request_id
    assert "Sf7M9j" == (
        client(base_url="https://example.com").resume_export(token).request_id
    )
    with pytest.raises(InvalidInputError, match="region"):
        client(region="us").resume_export(token)
