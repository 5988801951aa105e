"""What an answer means: a model, or the one right error, whatever it holds."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from amplitude_cohorts_async._core import responses
from amplitude_cohorts_async._core.messages import Request, Response
from amplitude_cohorts_async._core.polling import JobFailed
from amplitude_cohorts_async._core.requests import Endpoints
from amplitude_cohorts_async._core.tokens import ExportRef
from amplitude_cohorts_async.errors import (
    ApiError,
    AuthenticationError,
    BadRequestError,
    CohortsError,
    InvalidIdsError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
    UnexpectedResponseError,
)
from amplitude_cohorts_async.models import Cohort, ExportStatus, Routes

NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)
REQUEST = Request(operation="export", path="/api/5/cohorts/request/26umsb5")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
ENVELOPES = st.fixed_dictionaries(
    {},
    optional={
        "error": JSON
        | st.fixed_dictionaries(
            {},
            optional={
                "http_code": JSON,
                "type": JSON,
                "message": JSON,
                "metadata": JSON
                | st.fixed_dictionaries(
                    {},
                    optional={
                        "details": JSON,
                        "invalid_ids_sample": JSON,
                        "skipped_ids": JSON,
                        "memberships_result": JSON
                        | st.lists(JSON | st.fixed_dictionaries({"skipped_ids": JSON})),
                    },
                ),
            },
        ),
        "message": JSON,
        "metadata": JSON,
    },
)


def answer(status: int, body: object = b"", **headers: str) -> Response:
    """Make an answer; what is no bytes is JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}

    return Response(status=status, headers=names, body=raw)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, BadRequestError),
        (401, AuthenticationError),
        (402, BadRequestError),
        (403, PermissionDeniedError),
        (404, NotFoundError),
        (410, NotFoundError),
        (413, BadRequestError),
        (429, RateLimitedError),
        (500, ServerError),
        (503, ServerError),
        (599, ServerError),
    ],
)
def test_every_status_has_its_class(status: int, error: type[ApiError]) -> None:
    """The class follows from the status."""
    made = responses.error_of(REQUEST, answer(status), now=NOW)

    assert error is type(made)
    assert status == made.status
    assert str(status) in str(made)
    assert REQUEST.path in str(made)


@pytest.mark.parametrize(
    ("details", "error"),
    [
        ("Invalid API Key", AuthenticationError),
        ("Invalid API/Secret Key combination", AuthenticationError),
        ("no access to cohort 'Secret Santa'", PermissionDeniedError),
        ("Your plan does not include this", PermissionDeniedError),
        ("", PermissionDeniedError),
    ],
)
def test_the_two_kinds_of_403(details: str, error: type[ApiError]) -> None:
    """Wrong keys and a wrong plan are told apart by the details."""
    body = {"error": {"http_code": 403, "metadata": {"details": details}}}
    made = responses.error_of(REQUEST, answer(403, body), now=NOW)

    assert error is type(made)
    assert details == made.details or not details


@pytest.mark.parametrize(
    ("body", "details"),
    [
        ({"error": {"message": "m", "metadata": {"details": "d"}}}, "d"),
        ({"error": {"message": "m", "metadata": {}}}, "m"),
        ({"error": {"message": "m", "metadata": None}}, "m"),
        ({"error": "BAD_REQUEST", "message": "m"}, "BAD_REQUEST"),
        ({"message": "m"}, "m"),
        (b"<h1>Bad  \n gateway</h1>", "<h1>Bad gateway</h1>"),
        (b"", ""),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"[]", "[]"),
    ],
)
def test_the_useful_text(body: object, details: str) -> None:
    """The useful text is found in every form of the envelope that was seen."""
    made = responses.error_of(REQUEST, answer(400, body), now=NOW)

    assert details == made.details


def test_an_envelope_is_kept() -> None:
    """What the service says of an error is there to be read."""
    metadata = {"details": "d", "more": [1]}
    error = {"type": "unspecified", "metadata": metadata}
    made = responses.error_of(REQUEST, answer(400, {"error": error}), now=NOW)

    assert ("unspecified", metadata) == (made.type, made.metadata)


@pytest.mark.parametrize(
    "metadata",
    [
        {"invalid_ids_sample": ["x", 7]},
        {"skipped_ids": ["x", 7]},
        {"memberships_result": [{"skipped_ids": ["x"]}, {}, {"skipped_ids": [7]}]},
        {"invalid_ids": ["x", 7]},
        {"invalidIds": ["x"], "unknown_user_ids": [7, None, {}]},
        {"by_type": {"BY_NAME": {"ids": ["x"]}}, "skipped_ids": ["x", 7]},
    ],
)
def test_ids_that_nobody_knows(metadata: dict[str, Any]) -> None:
    """A refusal that names ids is about them, in each of the forms that were seen."""
    body = {"error": {"metadata": metadata}}
    made = responses.error_of(REQUEST, answer(400, body), now=NOW)

    assert isinstance(made, InvalidIdsError)
    assert ["x", "7"] == list(made.sample)


@given(ENVELOPES | JSON, st.integers(400, 599))
@example({"error": {"metadata": {"memberships_result": [{"skipped_ids": 5}]}}}, 400)
@example({"error": {"metadata": {"memberships_result": 5, "details": []}}}, 400)
def test_no_error_breaks_the_reader(body: object, status: int) -> None:
    """Whatever an unsuccessful answer holds, it becomes an error."""
    made = responses.error_of(REQUEST, answer(status, body), now=NOW)

    assert isinstance(made, ApiError)
    assert isinstance(made.details, str)
    assert 2_000 > len(str(made)) or len(made.details) > 300


def read_cohorts(request: Request, response: Response) -> list[Cohort]:
    """Read a list to its end."""
    return list(responses.each_cohort(request, response))


@given(st.binary())
def test_no_bytes_break_the_reader(body: bytes) -> None:
    """Bytes that are no JSON at all become errors as well."""
    assert responses.error_of(REQUEST, answer(500, body), now=NOW)
    for read in (read_cohorts, responses.usage, responses.export_request_id):
        with pytest.raises(UnexpectedResponseError):
            read(REQUEST, answer(200, body))


@pytest.mark.parametrize(
    "request_id", ["Sf7M9j", 7, "a b", "\n", "../..", "ü", "x" * 999]
)
def test_any_text_names_an_export(request_id: object) -> None:
    """What can be percent-encoded can be followed, whatever it looks like."""
    body = answer(202, {"request_id": request_id})

    assert str(request_id) == responses.export_request_id(REQUEST, body)


@pytest.mark.parametrize(
    ("request_id", "kept"),
    [
        (None, None),
        ("", ""),
        ("..", ".."),
        ("\ud800", "\ud800"),
        ("x" * 9_999, "x" * 9_999),
        (1.5, "1.5"),
        (["a"], "['a']"),
    ],
)
def test_an_id_that_cannot_be_followed_is_kept(
    request_id: object, kept: str | None
) -> None:
    """The export is spent: what there is of its name is an attribute of the error."""
    with pytest.raises(UnexpectedResponseError, match="get_usage") as caught:
        responses.export_request_id(REQUEST, answer(202, {"request_id": request_id}))

    assert kept == caught.value.request_id
    assert "$.request_id" == caught.value.path


@given(st.dictionaries(st.sampled_from(["cohorts", "rest_download", "usage"]), JSON))
def test_no_json_breaks_the_reader(body: dict[str, Any]) -> None:
    """Any JSON is read, or refused with a path."""
    for read in (read_cohorts, responses.usage):
        try:
            read(REQUEST, answer(200, body))
        except UnexpectedResponseError as error:
            assert error.path.startswith("$")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 1.5 ", 1.5),
        ("Mon, 15 Jun 2026 12:02:00 GMT", 120.0),
        ("Mon, 15 Jun 2026 05:02:00 -0700", 120.0),
        ("Mon, 15 Jun 2026 11:00:00 GMT", None),
        ("", None),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("Mon, 15 Jun 2026 12:02:00 -0000", None),
        ("9" * 400, None),
    ],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    """Seconds, or a moment in time; what is neither asks for nothing."""
    assert seconds == responses.retry_after({"retry-after": text}, now=NOW)


@given(st.text())
def test_retry_after_of_strangers(text: str) -> None:
    """No header makes us wait for ever, or fail."""
    seconds = responses.retry_after({"retry-after": text}, now=NOW)

    assert seconds is None or 0 <= seconds < float("inf")


@given(st.integers(200, 299), JSON, st.sampled_from(["async_status", "status"]))
def test_any_word_is_a_status_or_an_error(code: int, word: object, name: str) -> None:
    """
    202 is running; nothing else is ever taken for done but a word that says so.
    """
    try:
        status = responses.export_status(REQUEST, answer(code, {name: word}))
    except CohortsError as error:
        assert isinstance(error, UnexpectedResponseError)
        assert code != 202
        return

    if code == 202:
        assert isinstance(status, ExportStatus)
        assert not status.done
    else:
        assert isinstance(status, ExportStatus | JobFailed)


@given(st.none() | st.text() | st.datetimes(timezones=st.just(UTC)))
def test_when_an_answer_was_made(date: str | datetime | None) -> None:
    """
    The service's own clock is believed when it is behind ours, and no other text is.
    """
    headers = {}
    if isinstance(date, str):
        headers["date"] = date
    elif date is not None:
        headers["date"] = date.strftime("%a, %d %b %Y %H:%M:%S GMT")

    assert responses.answered_at(answer(202, **headers), now=NOW) <= NOW


def test_the_services_clock() -> None:
    """An answer of a moment ago was made a moment ago."""
    then = NOW - timedelta(seconds=9)
    date = then.strftime("%a, %d %b %Y %H:%M:%S GMT")

    assert then == responses.answered_at(answer(202, date=date), now=NOW)


def test_a_page_is_shown_in_part() -> None:
    """What came instead of JSON is shown, but not all of it, and on one line."""
    page = b"<!DOCTYPE html>\n\n<p>" + b"x" * 10_000

    with pytest.raises(UnexpectedResponseError) as caught:
        responses.decode(REQUEST, answer(200, page, content_type="text/html"))

    assert "text/html" in str(caught.value)
    assert "<!DOCTYPE html> <p>" in str(caught.value)
    assert 600 > len(str(caught.value))


def test_a_long_list_that_breaks_off() -> None:
    """What is read piece by piece ends in the same error as what is read at once."""
    cohorts = b",".join(b'{"id":"c%d","name":"n"}' % n for n in range(10_000))
    request = Request(operation="list", path="/api/3/cohorts")

    with pytest.raises(UnexpectedResponseError, match="instead of a JSON object"):
        read_cohorts(request, answer(200, b'{"cohorts":[' + cohorts + b",{"))


@pytest.mark.parametrize("text", ["?" * 20_000, "x " * 10_000, "\\" * 10_000])
def test_long_texts_are_shown_in_part(text: str) -> None:
    """An error's message shows a few hundred characters, whatever came and wherever."""
    envelope = {"type": text, "message": text, "metadata": {"details": text}}
    shown = [
        responses.error_of(REQUEST, answer(400, body), now=NOW)
        for body in (text.encode(), {"error": envelope}, {"message": text}, [text])
    ]
    shown.append(unread(answer(200, {"async_status": text})))
    shown.append(unread(answer(200, text.encode(), content_type=text)))

    assert 600 > max(len(str(error)) for error in shown)
    assert 600 > max(len(getattr(error, "type", "")) for error in shown)


def unread(response: Response) -> CohortsError:
    """Return why an answer about a job cannot be read."""
    with pytest.raises(UnexpectedResponseError) as caught:
        responses.export_status(REQUEST, response)

    return caught.value


@pytest.mark.parametrize("word", ["FAIL", "RUNNING"])
def test_a_long_word_is_shown_in_part(word: str) -> None:
    """The service's word for a job is a word, not a page."""
    status = responses.export_status(
        REQUEST, answer(202, {"status": word + "?" * 9_999})
    )

    assert status.word.startswith(word)
    assert 120 > len(status.word)


def test_an_unreadable_list_is_shown_in_part() -> None:
    """What is no list of cohorts is not quoted at length."""
    body = {"cohorts": [{"name": "z" * 10_000}]}

    with pytest.raises(UnexpectedResponseError) as caught:
        read_cohorts(REQUEST, answer(200, body))

    assert 600 > len(str(caught.value))
    assert "$.cohorts" == caught.value.path


def test_what_an_envelope_says_beside_its_details() -> None:
    """Its message and its code are kept, and a code that contradicts is told."""
    error = {"http_code": 403, "message": "m", "metadata": {"details": "d"}}
    made = responses.error_of(REQUEST, answer(400, {"error": error}), now=NOW)

    assert ("d", "m", 403) == (made.details, made.api_message, made.http_code)
    assert "says 403" in str(made)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, InvalidIdsError),
        (409, InvalidIdsError),
        (422, InvalidIdsError),
        (403, PermissionDeniedError),
        (404, NotFoundError),
        (429, RateLimitedError),
        (500, ServerError),
    ],
)
def test_the_status_of_unknown_ids(status: int, error: type[ApiError]) -> None:
    """The page has no status for them: whichever has no class of its own will do."""
    body = {"error": {"metadata": {"invalid_ids": ["a"]}}}

    assert error is type(responses.error_of(REQUEST, answer(status, body), now=NOW))


def test_lists_that_hold_no_ids() -> None:
    """Only a list that is called one of ids makes an error about ids."""
    body = {"error": {"metadata": {"details": "d", "fields": ["owner"]}}}

    assert BadRequestError is type(
        responses.error_of(REQUEST, answer(400, body), now=NOW)
    )


def test_what_to_do_about_unknown_ids_is_true_either_way() -> None:
    """With skip_invalid_ids=True it is raised, too, if none of the ids is known."""
    body = {"error": {"metadata": {"invalid_ids": ["a"]}}}
    made = responses.error_of(REQUEST, answer(400, body), now=NOW)

    assert "take the ids in .sample out" in str(made)
    assert "skips them, unless none of the ids is known" in str(made)


EXPORT = Endpoints().request_export("26umsb5", properties=False)


@pytest.mark.parametrize(
    ("request_", "read", "document", "told"),
    [
        (
            EXPORT,
            responses.export_request_id,
            {"request_id": "Sf7M9j", "cohort_id": "other"},
            "cohort 'other'",
        ),
        (
            EXPORT,
            responses.export_request_id,
            {"requestId": "Sf7M9j", "cohortId": 7},
            "cohort '7'",
        ),
    ],
)
def test_an_answer_about_something_else(
    request_: Request, read: Any, document: object, told: str
) -> None:
    """
    It is an error that says what was answered, and that something may have happened.
    """
    with pytest.raises(UnexpectedResponseError, match=told) as caught:
        read(request_, answer(200, document))

    assert caught.value.may_have_happened


OF_A_JOB = ExportRef(request_id="Sf7M9j", cohort_id="26umsb5")


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"request_id": "other", "cohort_id": "26umsb5"}, "request 'other'"),
        ({"request_id": "Sf7M9j", "cohort_id": "other"}, "cohort 'other'"),
    ],
)
@pytest.mark.parametrize("word", ["JOB COMPLETED", "JOB FAILED"])
def test_the_status_of_another_job_is_none(
    document: dict[str, str], told: str, word: str
) -> None:
    """Neither its end nor its failure is believed; the examples of a mock are."""
    reply = answer(200, document | {"async_status": word})
    mock = Endpoints(Routes.OPENAPI).export_status(OF_A_JOB)

    with pytest.raises(UnexpectedResponseError, match=f"{told}.*resume_export"):
        responses.export_status(Endpoints().export_status(OF_A_JOB), reply)

    assert word == responses.export_status(mock, reply).word


def test_a_job_that_does_not_know_its_cohort_has_a_status() -> None:
    """Resumed from a bare request id, it compares that alone."""
    request = Endpoints().export_status(ExportRef(request_id="Sf7M9j"))
    document = {"request_id": "Sf7M9j", "cohort_id": "c", "async_status": "done"}

    assert ExportStatus(done=True, word="done") == responses.export_status(
        request, answer(200, document)
    )


def test_a_strange_export_is_not_lost() -> None:
    """An export of another cohort was spent, and its request id is in the message."""
    document = {"request_id": "Sf7M9j", "cohort_id": "other"}

    with pytest.raises(UnexpectedResponseError, match="Sf7M9j") as caught:
        responses.export_request_id(EXPORT, answer(202, document))

    assert "Sf7M9j" == caught.value.request_id


def test_examples_of_the_other_description_are_no_contradiction() -> None:
    """A mock made from the third-party description answers with its own examples."""
    document = {"request_id": "Sf7M9j", "cohort_id": "example_value"}
    export = Endpoints(Routes.OPENAPI).request_export("c", properties=False)

    assert "Sf7M9j" == responses.export_request_id(export, answer(202, document))
