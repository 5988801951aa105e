"""The real servers run, and are as strict as the real thing."""

from __future__ import annotations

import http.client
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from .requirements import require

if TYPE_CHECKING:
    from .swift import Swift
    from .valkey import Valkey

pytestmark = pytest.mark.services
BASIC = {"Authorization": "Basic YTpi"}


def get(
    url: str, *, trust: ssl.SSLContext | None = None, **headers: str
) -> tuple[int, bytes]:
    """Fetch a URL and return the status and the body."""
    parts = urlsplit(url)
    connection = (
        http.client.HTTPSConnection(parts.netloc, context=trust)
        if trust
        else http.client.HTTPConnection(parts.netloc)
    )
    try:
        connection.request("GET", f"{parts.path}?{parts.query}", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)]
)
def test_a_server_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    """Its tests are skipped, and fail where all of them have to run."""
    monkeypatch.setenv("CI", ci)

    with pytest.raises(outcome, match="no_such_server is not installed"):
        require("no_such_server")


def test_a_link_gives_the_object(store: Swift) -> None:
    """What was put is what a presigned link gives, name and bytes untouched."""
    store.put("one (1)+ü.csv", b"amplitude_id\r\n")

    assert (200, b"amplitude_id\r\n") == get(store.link("one (1)+ü.csv"))


def test_a_range_is_partial_content(store: Swift) -> None:
    """A range of the right object is 206; of another version it is 412."""
    etag = store.put("range", b"0123456789")
    url = store.link("range")

    assert (206, b"56789") == get(url, Range="bytes=5-", **{"If-Match": etag})
    assert 412 == get(url, Range="bytes=5-", **{"If-Match": '"other"'})[0]


def test_an_old_link_is_refused(store: Swift) -> None:
    """A link signed two minutes ago for one minute is 403, in S3's words."""
    store.put("old", b"x")
    status, body = get(store.link("old", at=datetime.now(UTC) - timedelta(minutes=2)))

    assert 403 == status
    assert b"<Code>AccessDenied</Code><Message>Request has expired" in body


def test_a_changed_link_is_refused(store: Swift) -> None:
    """A signature holds for its own URL only."""
    store.put("mine", b"x")
    store.put("other", b"x")

    assert 403 == get(store.link("mine").replace("/mine?", "/other?"))[0]


def test_credentials_beside_a_signature_are_refused(store: Swift) -> None:
    """
    As at Amazon, a request with two credentials is 400, and the store remembers it.
    """
    store.put("two", b"x")
    url = store.link("two")

    assert 200 == get(url)[0]
    assert 400 == get(url, **BASIC)[0]
    assert BASIC["Authorization"] == store.requests()[-1]["headers"]["authorization"]


def test_https(tls_store: Swift, trust: ssl.SSLContext) -> None:
    """The store speaks https too, with a certificate that only `trust` accepts."""
    tls_store.put("safe", b"x")

    assert (200, b"x") == get(tls_store.link("safe"), trust=trust)
    with pytest.raises(ssl.SSLCertVerificationError):
        get(tls_store.link("safe"), trust=ssl.create_default_context())


def test_valkey_forgets_when_it_is_killed(valkey: Valkey) -> None:
    """A killed server comes back at the same address, empty."""
    redis = pytest.importorskip("redis", reason="needs the extra redis")

    with redis.Redis.from_url(valkey.url) as client:
        client.set("name", "value")
        assert b"value" == client.get("name")

        valkey.kill()
        with pytest.raises(redis.ConnectionError):
            client.get("name")

        valkey.start()
        assert client.get("name") is None
