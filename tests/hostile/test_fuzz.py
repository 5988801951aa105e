"""Readers of what others wrote, given anything: only their own errors."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from amplitude_cohorts_async._core import journal, responses
from amplitude_cohorts_async._core.csvparse import MemberReader
from amplitude_cohorts_async._core.csvtext import Malformed
from amplitude_cohorts_async._core.json_stream import whole_part
from amplitude_cohorts_async._core.messages import Response
from amplitude_cohorts_async._core.redact import Redactor
from amplitude_cohorts_async._core.requests import Endpoints
from amplitude_cohorts_async._core.tokens import ExportRef, from_token, to_token
from amplitude_cohorts_async._io.sinks.filters import DetectGzip, Inflate, TextCheck
from amplitude_cohorts_async.errors import ApiError, CohortsError, InvalidInputError
from amplitude_cohorts_async.models import Routes
from support.canary import API_KEY, SECRET_KEY, find_secrets

NOW = datetime(2026, 6, 15, tzinfo=UTC)
ENDPOINTS = Endpoints(Routes.VENDOR)
REF = ExportRef(request_id="Sf7M9j", cohort_id="26umsb5", requested_at=NOW, as_of=NOW)

# What the readers know, and what they may be given in its place.
WORDS = st.sampled_from(
    [
        *("cohorts", "error", "metadata", "details", "http_code", "message", "type"),
        *("request_id", "cohort_id", "async_status", "status", "invalid_ids"),
        *("rest_download", "limit", "used", "version", "properties", "region"),
        *("journal", "attempt", "cohort", "done", "batch", "parameters", "time"),
        *("requested_at", "as_of", "JOB COMPLETED", "26umsb5", "Sf7M9j", SECRET_KEY),
    ]
)
ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | WORDS
)
VALUES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(WORDS | st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=12,
)
DOCUMENTS = (
    st.binary(max_size=200)
    | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | VALUES.map(lambda value: json.dumps(value).encode())
)
CELLS = st.sampled_from(
    [
        *(
            "amplitude_id",
            "user_id",
            "\tgroup_value",
            ",",
            '"',
            '""',
            "\n",
            "\r",
            "\r\n",
        ),
        *("\0", "\ufeff", "ann", "\t", "\ud800", "ä"),
    ]
)
TEXTS = st.binary(max_size=200) | st.lists(CELLS, max_size=40).map(
    lambda cells: "".join(cells).encode("utf-8", "surrogatepass")
)


@given(TEXTS, st.integers(1, 50))
def test_members(data: bytes, size: int) -> None:
    """The reader of members, whatever the pieces."""
    reader = MemberReader(block=16, max_record=64)
    pieces = [data[at : at + size] for at in range(0, len(data), size)]

    with suppress(Malformed):
        for piece in pieces:
            list(reader.feed(piece))
        list(reader.finish())


@given(TEXTS | st.just(b"\x1f\x8b\x08") | st.binary().map(lambda x: b"\x1f\x8b" + x))
def test_files(data: bytes) -> None:
    """The filters before a file."""
    chain = DetectGzip(lambda is_gzip: Inflate(TextCheck()) if is_gzip else TextCheck())

    with suppress(Malformed):
        chain.write(data)
        chain.finish()


@given(DOCUMENTS, st.sampled_from([200, 202, 204]))
def test_answers(data: bytes, status: int) -> None:
    """The answers of all endpoints that an export needs."""
    response = Response(status=status, headers={}, body=data)
    listing, usage = ENDPOINTS.list_cohorts(include_sync_info=True), ENDPOINTS.usage()
    asking = ENDPOINTS.export_status(REF)

    for read in (
        lambda: list(responses.each_cohort(listing, response)),
        lambda: responses.usage(usage, response),
        lambda: responses.export_request_id(asking, response),
        lambda: responses.export_status(asking, response),
        lambda: responses.refusal_in(usage, response),
    ):
        with suppress(CohortsError):
            read()


@given(DOCUMENTS, st.integers(400, 599), st.text(max_size=20))
def test_refusals(data: bytes, status: int, header: str) -> None:
    """Every refusal is an error of ours, bounded, and without a secret."""
    shown = whole_part(Redactor.of_keys(API_KEY, SECRET_KEY).body(data))
    headers = {"retry-after": header, "content-type": header, "date": header}
    response = Response(status=status, headers=headers, body=shown)

    error = responses.error_of(ENDPOINTS.usage(), response, now=NOW)

    assert isinstance(error, ApiError)
    assert len(str(error)) < 1_000
    assert [] == find_secrets(f"{error} {error.details} {error.metadata}")


@given(st.text(max_size=200) | VALUES.map(json.dumps))
def test_tokens(text: str) -> None:
    """A token is read, or refused as one; what is read is one again."""
    with suppress(InvalidInputError):
        ref = from_token(text)
        assert ref == from_token(to_token(ref))


@given(st.dictionaries(st.sampled_from([*json.loads(to_token(REF))]), VALUES))
def test_tokens_that_were_changed(changes: dict[str, object]) -> None:
    """One field of a good token may be anything."""
    with suppress(InvalidInputError):
        from_token(json.dumps(json.loads(to_token(REF)) | changes))


@given(st.lists(DOCUMENTS, max_size=5))
def test_journals(lines: list[bytes]) -> None:
    """A journal is read, or refused as one."""
    with suppress(CohortsError):
        journal.parse(b"\n".join(lines))


@given(st.lists(VALUES, max_size=4), st.integers(0, 200))
def test_journals_that_were_changed(values: list[object], depth: int) -> None:
    """Behind a good beginning, too, and with lines that nest deeply."""
    lines = [
        journal.start_line("upload", {"name": "Buyers"}),
        journal.attempt_line(NOW),
        *(json.dumps(value).encode() + b"\n" for value in values),
        b"[" * depth * 1_000 + b"\n",
        journal.done_line(),
    ]

    with suppress(CohortsError):
        journal.parse(b"".join(lines))
