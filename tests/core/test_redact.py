"""What may be shown: no secret survives."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplitude_cohorts_async._core.redact import (
    HIDDEN,
    Redactor,
    redact_links,
    redact_url,
)
from support.canary import API_KEY, BASIC, SECRET_KEY, find_secrets

KEYS = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=":"),
    min_size=8,
    max_size=64,
)
PIECES = st.text(max_size=30)
REDACTOR = Redactor.of_keys(API_KEY, SECRET_KEY)


@given(KEYS, KEYS, st.lists(PIECES, min_size=9, max_size=9))
def test_no_key_survives(api_key: str, secret_key: str, pieces: list[str]) -> None:
    """Neither key, nor any form of the pair that a URL or a header gives it."""
    pair = f"{api_key}:{secret_key}"
    forms = [
        api_key,
        secret_key,
        pair,
        base64.b64encode(pair.encode()).decode(),
        quote(secret_key, safe=""),
        quote_plus(secret_key),
        f"https://{api_key}:{secret_key}@amplitude.com/",
        f"Basic {base64.b64encode(pair.encode()).decode()}",
    ]
    text = "".join(
        piece + form for piece, form in zip(pieces, [*forms, ""], strict=True)
    )
    shown = Redactor.of_keys(api_key, secret_key).text(text)

    # A key may also be a part of what hides it, or of a piece by chance.
    for form in forms:
        assert form not in shown or form in HIDDEN or form in "".join(pieces)


@given(st.text())
def test_a_redactor_does_not_show_itself(text: str) -> None:
    """The redactor's own repr has no key, and its work is done at once."""
    assert [] == find_secrets(repr(REDACTOR))
    assert REDACTOR.text(REDACTOR.text(text)) == REDACTOR.text(text)


@pytest.mark.parametrize("keys", [("k", "s"), ("key", "secret")])
def test_data_are_not_changed_by_made_up_keys(keys: tuple[str, str]) -> None:
    """A key as short as a word stands in texts that have nothing to do with it."""
    body = b'{"cohorts": [{"name": "secret admirers", "definition": {"key": "s"}}]}'

    assert body == Redactor.of_keys(*keys).body(body)


def test_bodies() -> None:
    """Bytes are searched as they are; what is no text stays as it was."""
    body = b"\xff" + json.dumps({"sent": [API_KEY, SECRET_KEY, BASIC]}).encode()
    shown = REDACTOR.body(body)

    assert b"\xff" == shown[:1]
    assert [] == find_secrets(shown.decode("latin-1"))


SIGNATURE = "5ec2e7" * 10


@pytest.mark.parametrize(
    "text",
    [
        f"https://s3.example.com/a?X-Amz-Signature={SIGNATURE}&x=1",
        f"https://s3.example.com/a?x=1&X-Amz-Signature={SIGNATURE}",
        f"GET /a?AWSAccessKeyId=AKID&Signature={SIGNATURE}&Expires=1 HTTP/1.1",
        f"<a href='/a?x-amz-signature={SIGNATURE}'>",
        json.dumps({"said": f'"/a?X-Amz-Signature={SIGNATURE}"'}),
        f"cut off at X-Amz-Signature={SIGNATURE}",
        f"two: /a?X-Amz-Signature={SIGNATURE} and /b?X-Amz-Signature={SIGNATURE}",
        f"X-Amz-Credential={SIGNATURE}&X-Amz-Security-Token={SIGNATURE}",
        f"Authorization: Basic {SIGNATURE}",
        f"authorization: bearer {SIGNATURE}==",
    ],
)
def test_credentials_by_their_form(text: str) -> None:
    """A signed query or a header of credentials is known without the keys."""
    shown = redact_links(text)

    assert SIGNATURE not in shown
    assert HIDDEN in shown
    assert not text.startswith("{") or json.loads(shown)


@given(
    st.sampled_from(["https://", "http://user:word@"]),
    st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1),
    PIECES,
)
def test_a_url_is_shown_without_its_query(scheme: str, path: str, query: str) -> None:
    """
    Scheme, host and path say enough; user, query and fragment are nobody's business.
    """
    shown = redact_url(f"{scheme}s3.example.com/{path}?token=SECRET{query}#SECRET")

    assert "SECRET" not in shown
    assert "word" not in shown.removesuffix(path)
    assert f"s3.example.com/{path}" in shown


@pytest.mark.parametrize("url", ["", "https://[half", "://", "\x00", "a?b"])
def test_what_is_no_url_is_hidden_too(url: str) -> None:
    """A message about a broken link must not break, nor show it."""
    assert isinstance(redact_url(url), str)


def test_bodies_with_escapes_that_are_no_json() -> None:
    """What cannot be read is searched as it stands."""
    body = f'\\u0041 "{SECRET_KEY}" and no JSON'.encode()

    assert SECRET_KEY.encode() not in REDACTOR.body(body)
    assert b"and no JSON" in REDACTOR.body(body)


@pytest.mark.parametrize(
    "piece", ["?", "x-amz-", "?x-amz-", "basic ", "basic  ", "//", "?signature", "//a:"]
)
def test_redaction_is_linear(piece: str) -> None:
    """A million characters that almost begin a secret take no time worth naming."""
    text = piece * (1_000_000 // len(piece))

    assert text == redact_links(text)


def test_the_pair_in_other_alphabets() -> None:
    """Base64 may lack its padding, or use the alphabet of URLs."""
    api_key, secret_key = "k" * 16, "s?>~" * 8
    redactor = Redactor.of_keys(api_key, secret_key)
    pair = f"{api_key}:{secret_key}".encode()

    for form in (base64.b64encode(pair), base64.urlsafe_b64encode(pair)):
        bare = form.decode().rstrip("=")

        assert bare != form.decode()
        assert bare not in redactor.text(f"echo {bare}!")
        assert bare.encode() not in redactor.body(b"echo " + form)


def test_further_secrets_are_hidden() -> None:
    """The password of a proxy is hidden beside the keys."""
    redactor = Redactor.of_keys(API_KEY, SECRET_KEY, "pass word")

    assert f"{HIDDEN} {HIDDEN} and a word" == redactor.text(
        "pass word pass%20word and a word"
    )
