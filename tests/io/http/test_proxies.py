"""Proxies of the environment are used by choice, each for its addresses."""

from __future__ import annotations

import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async._io.http.proxies import Proxies
from amplitude_cohorts_async.errors import ConfigurationError
from amplitude_cohorts_async.testing import FakeClock
from support.canary import API_KEY, SECRET_KEY
from support.fault_server import FaultServer, json_reply

USAGE = "/api/3/cohorts/usage"
PROXY = "http://proxy.example:8080"


def client_of(base_url: str, clock: FakeClock) -> CohortsClient:
    """Return a client with the proxies of the environment."""
    return CohortsClient(
        API_KEY, SECRET_KEY, base_url=base_url, clock=clock, proxy="env"
    )


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without any."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("no_proxy", "url", "expected"),
    [
        ("", "https://amplitude.com/api", PROXY),
        ("*", "https://amplitude.com/api", None),
        ("amplitude.com", "https://amplitude.com/api", None),
        ("amplitude.com", "https://analytics.eu.amplitude.com/api", None),
        (".amplitude.com", "https://eu.amplitude.com/", None),
        ("amplitude.com", "https://notamplitude.com/", PROXY),
        ("amplitude.com:443", "https://amplitude.com:443/", None),
        ("amplitude.com:444", "https://amplitude.com:443/", PROXY),
        ("localhost, 127.0.0.1", "http://127.0.0.1:80/", None),
        ("localhost,", "https://s3.amazonaws.com/x", PROXY),
        ("AMPLITUDE.COM", "https://amplitude.com/", None),
    ],
)
def test_hosts_of_no_proxy_are_asked_directly(
    monkeypatch: pytest.MonkeyPatch, no_proxy: str, url: str, expected: str | None
) -> None:
    """A name stands for all below it, a star for all."""
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    monkeypatch.setenv("http_proxy", "proxy.example:8080")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    found, _ = Proxies.of_environment().of(url)

    assert expected == (None if found is None else str(found).rstrip("/"))


def test_each_scheme_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """ALL_PROXY is that of any other."""
    monkeypatch.setenv("HTTPS_PROXY", "http://user:pass@one.example")
    monkeypatch.setenv("ALL_PROXY", "two.example:1")
    proxies = Proxies.of_environment()
    of_https, headers = proxies.of("https://amplitude.com")

    assert "http://one.example" == str(of_https)
    assert {"Proxy-Authorization"} == headers.keys()
    assert "http://two.example:1" == str(proxies.of("http://x.example")[0])
    assert "pass" in proxies.secrets
    assert "pass" not in repr(proxies)


async def test_the_environments_proxy_carries_requests_by_choice(
    server: FaultServer, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And none that are for a host of NO_PROXY."""
    api = "http://127.0.0.1:9"
    server.on(f"{api}{USAGE}", json_reply({"rest_download": {"usage": 1}}))
    server.on(USAGE, json_reply({"rest_download": {"usage": 2}}))
    monkeypatch.setenv("http_proxy", server.url)

    async with client_of(api, clock) as client:
        assert 1 == (await client.get_usage()).used

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    async with client_of(server.url, clock) as client:
        assert 2 == (await client.get_usage()).used


def test_a_proxy_that_is_none_is_named_by_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without its value, which may hold a password."""
    monkeypatch.setenv("ALL_PROXY", "socks5://user:hush@proxy.example")

    with pytest.raises(ConfigurationError, match="ALL_PROXY") as caught:
        CohortsClient("key", "secret", proxy="env")

    assert "hush" not in str(caught.value)
