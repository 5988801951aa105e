"""Which link may be followed, and what an answer is a part of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplitude_cohorts_async._core.links import (
    Part,
    is_loopback,
    link_target,
    part_of,
)
from amplitude_cohorts_async.errors import UnexpectedResponseError
from support.canary import find_secrets

ASKED = "https://amplitude.com/api/5/cohorts/request/Sf7M9j/file"
ASCII = st.text(st.characters(min_codepoint=33, max_codepoint=126))


@pytest.mark.parametrize(
    ("location", "target"),
    [
        (
            "https://s3.example.com/a%2Fb?x=%3D+~",
            "https://s3.example.com/a%2Fb?x=%3D+~",
        ),
        ("HTTPS://S3.example.com/a", "HTTPS://S3.example.com/a"),
        ("http://127.0.0.1:1/a", "http://127.0.0.1:1/a"),
        ("http://localhost/a", "http://localhost/a"),
        ("/a/../b?u=http://x", "https://amplitude.com/a/../b?u=http://x"),
        ("//s3.example.com/a?x=%2f", "https://s3.example.com/a?x=%2f"),
        ("part", "https://amplitude.com/api/5/cohorts/request/Sf7M9j/part"),
    ],
)
def test_links(location: str, target: str) -> None:
    """A link is taken as written; a relative one is relative to what was asked."""
    assert target == link_target(ASKED, location)


@given(ASCII)
def test_a_link_is_never_rewritten(tail: str) -> None:
    """Whatever follows the host stays, byte for byte."""
    location = f"https://s3.example.com/{tail}"

    assert location == link_target(ASKED, location)


@given(st.text())
def test_a_link_is_safe_or_refused(location: str) -> None:
    """
    What is returned goes out encrypted; anything else is our error, without its query.
    """
    try:
        target = link_target(ASKED, location)
    except UnexpectedResponseError as error:
        assert [] == find_secrets(str(error))
    else:
        assert target.lower().startswith(("https://", "http://"))
        assert all("!" <= character <= "~" for character in target)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("localhost.example.com", False),
        ("10.0.0.1", False),
        ("0.0.0.0", False),
        ("127.0.0.1.example.com", False),
        ("", False),
        (None, False),
    ],
)
def test_this_machine(host: str | None, expected: bool) -> None:
    """Loopback is an address, or the one name for it."""
    assert expected is is_loopback(host)


@pytest.mark.parametrize(
    ("status", "headers", "part"),
    [
        (200, {"content-length": "10"}, Part(start=0, length=10, total=10)),
        (200, {}, Part(start=0, length=None, total=None)),
        (200, {"content-range": "nonsense"}, Part(start=0, length=None, total=None)),
        (206, {"content-range": "bytes 5-9/10"}, Part(start=5, length=5, total=10)),
        (206, {"content-range": "bytes 5-9/*"}, Part(start=5, length=5, total=None)),
        (
            206,
            {"content-range": " bytes 0-0/1 ", "content-length": "1"},
            Part(start=0, length=1, total=1),
        ),
        (206, {}, None),
        (206, {"content-range": "bytes */10"}, None),
        (206, {"content-range": "bytes 9-5/10"}, None),
        (206, {"content-range": "bytes 5-9/10", "content-length": "6"}, None),
        (206, {"content-range": "items 5-9/10"}, None),
        (206, {"content-range": "bytes 5-9/10, bytes 1-2/10"}, None),
        (206, {"content-range": "bytes 5-10/10"}, None),
    ],
)
def test_parts(status: int, headers: dict[str, str], part: Part | None) -> None:
    """A part says where it begins and how long it is, or it is unreadable."""
    assert part == part_of(status, headers)


@given(st.text(), st.text())
def test_headers_of_strangers(content_range: str, content_length: str) -> None:
    """No header of a store makes us fail."""
    headers = {"content-range": content_range, "content-length": content_length}
    part = part_of(206, headers)

    assert part is None or (part.length or 0) >= 1
    assert part_of(200, headers) is not None
