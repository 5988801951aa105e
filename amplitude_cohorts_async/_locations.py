"""The addresses of objects in buckets: what they look like, and what they name."""

from __future__ import annotations

import re
from pathlib import PurePath

import attrs

from .errors import InvalidInputError

SCHEMES = ("s3", "gs", "az")

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/", re.ASCII)
"""A scheme has two letters or more: one is a drive of Windows."""

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)


@attrs.frozen
class Location:
    """The place of an object: the scheme of its cloud, its bucket and its key."""

    scheme: str
    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"


def address_of(to: str | PurePath) -> str | None:
    """
    Return the address that a target is, of any kind; None if it is a path.

    A path that was made of an address has lost a slash, which is put back.
    """
    if isinstance(to, PurePath):
        text = to.as_posix()
        is_address = _ADDRESS.match(text) is not None
        return text.replace(":/", "://", 1) if is_address else None

    return to if _ADDRESS.match(to) else None


def checked_location(text: str) -> Location:
    """
    Return the place that an address names.

    No message shows the address, which may hold a signature or a password.

    Raises:
        InvalidInputError: It is signed, holds credentials, or names no object.
    """
    scheme, _, rest = text.partition(":")
    scheme = scheme.lower()

    if scheme not in SCHEMES or not rest.startswith("//"):
        raise InvalidInputError(
            "the target is an address, but none of an object: such a one begins with "
            "s3://, gs:// or az://, as in s3://bucket/members.csv"
        )

    bucket, _, key = rest[2:].partition("/")

    if "?" in rest or "#" in rest or "@" in bucket or ":" in bucket:
        raise InvalidInputError(
            "the target's address has a query or credentials in it, which would be "
            "kept with the job; pass the plain address, as in s3://bucket/members.csv: "
            "credentials come from the environment, or the machine's role"
        )

    if not _BUCKET.fullmatch(bucket):
        raise InvalidInputError(
            f"the target's address names no bucket; write {scheme}://BUCKET/KEY"
        )

    if not _is_key(key):
        raise InvalidInputError(
            f"the target's address names no object in {scheme}://{bucket}; end it in a "
            f"name, as in {scheme}://{bucket}/members.csv, without empty parts, dots "
            f"or control characters"
        )

    return Location(scheme, bucket, key)


def is_location(text: str) -> bool:
    """Whether a name of a target is that of an object which an address opens."""
    scheme, separator, _ = text.partition("://")

    return bool(separator) and scheme in SCHEMES


def check_shown(location: str) -> None:
    """Raise `InvalidInputError` if a location would show a signature or credentials."""
    scheme, _, rest = location.partition("://")
    has_secret = "?" in location or "@" in rest.partition("/")[0]

    if not rest or not scheme.isascii() or not location.isprintable() or has_secret:
        raise InvalidInputError(
            "a destination's location is kept and shown: it is an address as in "
            "memory://folder/members.csv, without a query or credentials"
        )


def _is_key(key: str) -> bool:
    parts = key.split("/")

    return key.isprintable() and not {"", ".", ".."}.intersection(parts)
