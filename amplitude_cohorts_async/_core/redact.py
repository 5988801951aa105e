"""What may be shown: never a key, never the query of a presigned link."""

from __future__ import annotations

import base64
import json
import re
from urllib.parse import quote, urlsplit, urlunsplit

import attrs

HIDDEN = "[hidden]"

_AUTHORIZATION = re.compile(r"(?i)\b(basic|bearer)\s+[a-z0-9+/=_.~-]{8,}")
_USER = re.compile(r"//[^\s/@\"'<>]*@")
_QUERY = re.compile(r"\?[^\s\"'<>\\]+")
_SIGNATURE = re.compile(r"(?i)(?:x-amz-[a-z-]{1,40}|signature|awsaccesskeyid)=")
_SIGNED_PAIR = re.compile(
    r"(?i)\b(x-amz-(?:signature|credential|security-token)|signature|awsaccesskeyid)"
    r"=[^\s&\"'<>\\]+"
)


_LEAST = 8
"""Characters of a key that cannot stand in a text by chance; real ones have 32."""


def redact_url(url: str) -> str:
    """Return *url* without its query, fragment and user name."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return HIDDEN

    host = parts.netloc.rpartition("@")[2]
    bare = urlunsplit((parts.scheme, host, parts.path, "", ""))

    return f"{bare}?{HIDDEN}" if parts.query else bare


def redact_links(text: str) -> str:
    """Return *text* without credentials that can be told by their form."""
    # A query is matched whole first and searched then: one expression for both
    # would try each question mark of a run against all that follows it.
    text = _QUERY.sub(_without_signature, text)
    text = _SIGNED_PAIR.sub(rf"\1={HIDDEN}", text)
    text = _USER.sub(f"//{HIDDEN}@", text)

    return _AUTHORIZATION.sub(rf"\1 {HIDDEN}", text)


def shorten(text: str, most: int = 300) -> str:
    """Return as much of *text* as a message should show."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _without_signature(query: re.Match[str]) -> str:
    return f"?{HIDDEN}" if _SIGNATURE.search(query[0]) else query[0]


@attrs.frozen
class Redactor:
    """Hides one pair of keys and other secrets, in every form a header gives them."""

    _secrets: tuple[str, ...] = attrs.field(repr=False)

    @classmethod
    def of_keys(cls, api_key: str, secret_key: str, *others: str) -> Redactor:
        """Return one that hides these keys, and what else is secret."""
        pair = f"{api_key}:{secret_key}"
        forms = {api_key, secret_key, pair, *others}

        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            # What is followed by its padding is hidden but for that.
            forms.add(encode(pair.encode()).decode().rstrip("="))

        forms |= {quote(form, safe="") for form in forms}
        forms |= {json.dumps(form)[1:-1] for form in forms}

        # The longest first, or a part would leave the rest standing.
        return cls(tuple(sorted(filter(None, forms), key=len, reverse=True)))

    def text(self, text: str) -> str:
        """Return *text* without the keys and without signed queries."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)

        return redact_links(text)

    def url(self, url: str) -> str:
        """Return *url* as a message may show it: see `redact_url()`."""
        return shorten(self.text(redact_url(url)))

    def body(self, body: bytes) -> bytes:
        """
        Return *body* without the keys; bytes that are no text stay as they are.

        A made-up key that is shorter than any real one stays as well: it may be
        part of a word, and data must arrive as they were sent.
        """
        body = _spelt_plainly(body)

        for secret in self._secrets:
            if len(secret) >= _LEAST:
                body = body.replace(secret.encode(), HIDDEN.encode())

        return body


def _spelt_plainly(body: bytes) -> bytes:
    # JSON may write any character as an escape, and a key in escapes is a key
    # again once it is read.
    if b"\\" not in body:
        return body

    try:
        text = json.dumps(json.loads(body), ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        return body

    return text.encode("utf-8", "surrogatepass")
