"""What may be shown: never a key, never the query of a presigned link."""

from __future__ import annotations

import base64
import json
import re
from urllib.parse import quote, urlsplit, urlunsplit

import attrs

from .secret import HIDDEN, Secret

_AUTHORIZATION = re.compile(r"(?i)\b(basic|bearer)\s+[a-z0-9+/=_.~-]{8,}")
_USER = re.compile(r"//[^\s/@\"'<>]*@")
_QUERY = re.compile(r"\?[^\s\"'<>\\]+")
_SIGNATURE = re.compile(r"(?i)(?:x-amz-[a-z-]{1,40}|signature|awsaccesskeyid)=")
_SIGNED_PAIR = re.compile(
    r"(?i)\b(x-amz-(?:signature|credential|security-token)|signature|awsaccesskeyid)"
    r"=[^\s&\"'<>\\]+"
)


_ESCAPED_ASCII = re.compile(rb"\\(?:u00[2-7]|/)")

# A key of this length does not stand in a text by chance; real ones have 32.
_MIN_KEY_LENGTH = 8


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
    """Return *text* without credentials that are recognised by their form."""
    # A query is matched as a whole and searched afterwards: one expression for both
    # would be quadratic for a run of question marks.
    text = _QUERY.sub(
        lambda query: f"?{HIDDEN}" if _SIGNATURE.search(query[0]) else query[0], text
    )
    text = _SIGNED_PAIR.sub(rf"\1={HIDDEN}", text)
    text = _USER.sub(f"//{HIDDEN}@", text)

    return _AUTHORIZATION.sub(rf"\1 {HIDDEN}", text)


def shorten(text: str, most: int = 300) -> str:
    """Return *text*, cut to at most *most* characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


@attrs.frozen
class Redactor:
    """Hides one pair of keys and other secrets, in all forms a header may hold."""

    _secrets: tuple[str, ...] = attrs.field(repr=False)

    @classmethod
    def of_keys(cls, api_key: str, secret_key: str, *others: str) -> Redactor:
        """Return a redactor of these keys and other secrets."""
        pair = f"{api_key}:{secret_key}"
        forms = {api_key, secret_key, pair, *others}

        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            # Without its padding it is found with and without.
            forms.add(encode(pair.encode()).decode().rstrip("="))

        forms |= {quote(form, safe="") for form in forms}
        forms |= {json.dumps(form)[1:-1] for form in forms}

        # The longest first: a shorter one may be a part of it.
        ordered = sorted(filter(None, forms), key=len, reverse=True)

        return cls(tuple(map(Secret, ordered)))

    def text(self, text: str) -> str:
        """Return *text* without secrets and signed queries."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)

        return redact_links(text)

    def url(self, url: str) -> str:
        """Return *url* as a message may show it: see `redact_url()`."""
        return shorten(self.text(redact_url(url)))

    def body(self, body: bytes) -> bytes:
        """
        Return *body* without secrets; bytes that are not text stay as they are.

        Keys shorter than real ones stay too: they may be part of a word, and data must
        arrive as they were sent.
        """
        body = _unescaped(body)

        for secret in self._secrets:
            if len(secret) >= _MIN_KEY_LENGTH:
                body = body.replace(secret.encode(), HIDDEN.encode())

        return body


def _unescaped(body: bytes) -> bytes:
    # JSON may escape any character: an escaped key is a key again once decoded. Other
    # escapes, as of names beyond ASCII, are left: decoding megabytes takes long.
    if not _ESCAPED_ASCII.search(body):
        return body

    try:
        text = json.dumps(json.loads(body), ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        return body

    return text.encode("utf-8", "surrogatepass")
