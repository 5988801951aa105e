"""
What an upload and an update send, and what the answers mean.

The examples are the vendor's:
https://amplitude.com/docs/apis/analytics/behavioral-cohorts
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplitude_cohorts_async._core.batching import Batcher
from amplitude_cohorts_async._core.messages import Replay, Request, Response
from amplitude_cohorts_async._core.writes import (
    Change,
    Entry,
    Membership,
    Upload,
    UploadAnswer,
    UploadCounts,
    find_created,
    id_attribute,
    membership_request,
    skipped_ids,
    upload_answer,
    upload_request,
)
from amplitude_cohorts_async.errors import (
    BadRequestError,
    CohortsError,
    InvalidIdsError,
    InvalidInputError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
    UnexpectedResponseError,
)
from amplitude_cohorts_async.models import Cohort, IdType, Routes

NOW = datetime(2026, 11, 22, 12, 0, 0, 700_000, tzinfo=UTC)

CREATE = """{
    "name": "New Cohort",
    "app_id": 153957,
    "id_type": "BY_AMP_ID",
    "ids": [
            "10101010101010ID1",
            "00000010101010ID2"
    ],
    "owner": "datamonster@amplitude.com",
    "published": true
}"""

# Without the vendor's trailing comma, which is no JSON.
CHANGE = """{
"cohort_id":"1a2bc3d",
"memberships": [
    {
        "ids" : ["111","222"],
        "id_type" : "BY_ID",
        "operation" : "ADD"
    },
    {
        "ids" : ["333","444"],
        "id_type" : "BY_ID",
        "operation" : "REMOVE"
    },
    {
        "ids" : ["asd","qwe"],
        "id_type" : "BY_NAME",
        "operation" : "ADD"
    }
    ],
"skip_invalid_ids":true
}"""

UPLOADED = """{
  "cohortId": "COHORT_ID",
  "metadata": {
    "matched": 1234,
    "totals": 1232,
    "invalid_ids_sample": ["INVALID_ID1", "INVALID_ID2"]
  }
}"""


def a_spec(**changes: object) -> Upload:
    """The vendor's example, or a change of it."""
    fields: dict[str, object] = {
        "name": "New Cohort",
        "app_id": 153957,
        "id_type": IdType.AMPLITUDE_ID,
        "owner": "datamonster@amplitude.com",
    }

    return Upload(**{**fields, **changes})  # type: ignore[arg-type]


def sent(request: Request) -> dict[str, object]:
    """Decode what a request sends."""
    return dict(json.loads(request.body or b""))


def answer(document: object, *, status: int = 200) -> Response:
    """An answer of JSON."""
    return Response(status=status, headers={}, body=json.dumps(document).encode())


UPLOAD_REQUEST = upload_request(a_spec(), [b'"a"'])


def an_entry(
    change: Change, *ids: str, id_type: IdType = IdType.USER_ID, part: int = 0
) -> Entry:
    """An operation on these ids."""
    (batch,) = [*Batcher(size=len(ids)).feed(ids)]

    return Entry(change=change, id_type=id_type, batch=batch, part=part)


CHANGES = [an_entry("ADD", "a")]
CHANGE_REQUEST = membership_request("c", Membership(id_type=IdType.USER_ID), CHANGES)


def test_upload_sends_the_documented_example():
    """The vendor's example, as a JSON value and in its order."""
    request = upload_request(a_spec(), [b'"10101010101010ID1","00000010101010ID2"'])

    assert json.dumps(json.loads(CREATE)) == json.dumps(sent(request))
    assert ("POST", "/api/3/cohorts/upload") == (request.method, request.path)


def test_an_update_is_the_documented_example():
    """All three changes of the vendor's example in one request, byte for byte."""
    request = membership_request(
        "1a2bc3d",
        Membership(id_type=IdType.USER_ID),
        [
            an_entry("ADD", "111", "222", id_type=IdType.AMPLITUDE_ID),
            an_entry("REMOVE", "333", "444", id_type=IdType.AMPLITUDE_ID),
            an_entry("ADD", "asd", "qwe"),
        ],
    )

    assert json.dumps(json.loads(CHANGE), separators=(",", ":")).encode() == (
        request.body
    )
    assert ("POST", "/api/3/cohorts/membership") == (request.method, request.path)


def test_every_documented_parameter_is_sent():
    """Each option goes by the vendor's own name."""
    spec = a_spec(
        id_type=IdType.USER_ID,
        group="company",
        published=False,
        validate_only=True,
        skip_invalid_ids=False,
        replace="1a2bc3d",
    )

    assert {
        "name": "New Cohort",
        "app_id": 153957,
        "id_type": "BY_USER_ID",
        "cg": "company",
        "ids": ["a"],
        "owner": "datamonster@amplitude.com",
        "published": False,
        "skip_save": True,
        "skip_invalid_ids": False,
        "existing_cohort_id": "1a2bc3d",
    } == sent(upload_request(spec, [b'"a"']))


def test_count_group_is_sent_unless_it_is_the_default():
    """Members of a group cohort are groups, and the request says so."""
    spec = Membership(
        id_type=IdType.USER_ID, count_group="company", skip_invalid_ids=False
    )
    fields = sent(membership_request("c", spec, [an_entry("REMOVE", "a")]))

    assert ("company", False) == (fields["count_group"], fields["skip_invalid_ids"])
    assert "count_group" not in sent(CHANGE_REQUEST)


def test_what_follows_an_upload_is_of_its_kind():
    """The rest of an upload is added with the same type of id and group."""
    assert Membership(
        id_type=IdType.USER_ID, count_group="company", skip_invalid_ids=False
    ) == (a_spec(id_type=IdType.USER_ID, group="company", skip_invalid_ids=False).rest)
    assert Membership(id_type=IdType.AMPLITUDE_ID) == a_spec().rest


@given(st.text(min_size=1).filter(str.strip), st.lists(st.text()))
def test_bodies_are_those_of_json_dumps(name: str, ids: list[str]):
    """Whatever stands in the fields, ids go where ids belong."""
    ids_json = json.dumps(ids, separators=(",", ":"))[1:-1].encode()
    expected = sent(upload_request(a_spec(name=name), [])) | {"ids": ids}
    body = upload_request(a_spec(name=name), [ids_json]).body

    assert json.dumps(expected, separators=(",", ":")).encode() == body


@pytest.mark.parametrize(
    ("changes", "replay"),
    [
        ({}, Replay.UNSAFE),
        ({"replace": "1a2bc3d"}, Replay.SAFE),
        ({"validate_only": True}, Replay.SAFE),
    ],
)
def test_only_creating_must_not_be_repeated(changes: dict[str, object], replay: Replay):
    """A second creation makes a second cohort; all else ends the same."""
    assert replay is upload_request(a_spec(**changes), [b'"a"']).replay
    assert Replay.SAFE is CHANGE_REQUEST.replay


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": " "}, "name must be text"),
        ({"name": 7}, "name must be text"),
        ({"id_type": "BY_AMP_ID"}, "IdType.USER_ID"),
        ({"app_id": None}, "AMPLITUDE_APP_ID"),
        ({"app_id": "153957"}, "whole number"),
        ({"app_id": True}, "whole number"),
        ({"app_id": 0}, "whole number"),
        ({"owner": None}, "AMPLITUDE_OWNER"),
        ({"owner": ""}, "owner must be text"),
        ({"group": ""}, "group must be text"),
        ({"replace": ""}, "cohort id"),
        ({"published": 1}, "published must be True or False"),
        ({"skip_invalid_ids": None}, "skip_invalid_ids must be True or False"),
        ({"validate_only": "no"}, "validate_only must be True or False"),
    ],
)
def test_mistakes_are_found_before_anything_is_sent(
    changes: dict[str, object], reason: str
):
    """The message says which argument, and what it should be."""
    with pytest.raises(InvalidInputError, match=reason):
        a_spec(**changes)


def test_the_other_description_needs_less_and_has_less():
    """It requires a name and ids only, and knows no membership endpoint."""
    spec = a_spec(app_id=None, owner=None, routes=Routes.OPENAPI)

    assert {"name", "id_type", "ids", "published"} == set(
        sent(upload_request(spec, [b'"a"']))
    )
    with pytest.raises(InvalidInputError, match="no membership endpoint"):
        membership_request("c", spec.rest, CHANGES)


def test_the_documented_answer_is_read():
    """More matches than ids, as in the vendor's sample, are taken as they are."""
    expected = UploadAnswer(
        cohort_id="COHORT_ID",
        metadata=UploadCounts(
            matched=1234,
            totals=1232,
            invalid_ids_sample=("INVALID_ID1", "INVALID_ID2"),
        ),
    )
    read = upload_answer(a_spec(), UPLOAD_REQUEST, answer(json.loads(UPLOADED)))

    assert expected == read


@pytest.mark.parametrize(
    ("changes", "document", "expected"),
    [
        ({}, {"cohort_id": "c"}, UploadAnswer(cohort_id="c")),
        ({}, {"cohortId": 7, "metadata": None}, UploadAnswer(cohort_id="7")),
        ({"replace": "r"}, {}, UploadAnswer(cohort_id="r")),
        ({"validate_only": True}, {}, UploadAnswer(cohort_id=None)),
        (
            {"validate_only": True},
            {"cohortId": "c", "metadata": {"matched": 2}},
            UploadAnswer(metadata=UploadCounts(matched=2)),
        ),
    ],
)
def test_answers_are_read_tolerantly(
    changes: dict[str, object], document: object, expected: UploadAnswer
):
    """Either spelling of the id; none where there is nothing to name."""
    spec = a_spec(**changes)

    assert expected == upload_answer(spec, UPLOAD_REQUEST, answer(document))


@pytest.mark.parametrize("document", [{}, {"cohortId": "c", "error": {"type": "x"}}])
def test_an_upload_that_names_no_cohort_is_unclear(document: object):
    """A success without a cohort, or with an error in it, is neither."""
    with pytest.raises(UnexpectedResponseError, match="without saying what") as raised:
        upload_answer(a_spec(), UPLOAD_REQUEST, answer(document))

    assert "$.cohortId" == raised.value.path


def test_skipped_ids_are_read():
    """All entries count; what is missing skipped nothing."""
    results = [
        {"skipped_ids": ["a", 7], "id_type": "BY_NAME", "operation": "ADD"},
        {"skipped_ids": ["b"], "operation": "ADD"},
        {"operation": "ADD"},
    ]
    document = {"cohort_id": "c", "memberships_result": results}

    assert [["a", "7", "b"]] == skipped_ids(CHANGE_REQUEST, answer(document), CHANGES)
    assert [[]] == skipped_ids(CHANGE_REQUEST, answer({"cohort_id": "c"}), CHANGES)
    with pytest.raises(UnexpectedResponseError, match="with an error: no"):
        skipped_ids(CHANGE_REQUEST, answer({"error": "no"}), CHANGES)


REFUSAL = {
    "error": {
        "http_code": 400,
        "message": "bad thing",
        "metadata": {"invalid_ids": ["a"]},
    }
}


@pytest.mark.parametrize("changes", [{}, {"replace": "r"}, {"validate_only": True}])
def test_an_error_in_a_success_is_that_of_its_code(changes: dict[str, object]):
    """The vendor lists it among an upload's answers, and does not say with which."""
    with pytest.raises(InvalidIdsError, match=r"200 \(its body says 400\): bad") as one:
        upload_answer(a_spec(**changes), UPLOAD_REQUEST, answer(REFUSAL))
    with pytest.raises(InvalidIdsError) as other:
        skipped_ids(CHANGE_REQUEST, answer(REFUSAL), CHANGES)

    assert (400, ["a"]) == (one.value.status, one.value.sample)
    assert (400, ["a"]) == (other.value.status, other.value.sample)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (400, BadRequestError),
        ("403", PermissionDeniedError),
        (429, RateLimitedError),
        (503, ServerError),
        (200, UnexpectedResponseError),
        (None, UnexpectedResponseError),
        ("soon", UnexpectedResponseError),
    ],
)
def test_a_code_without_a_meaning_leaves_it_open(
    code: object, kind: type[CohortsError]
):
    """Only 4xx and 5xx are refusals; the reason is shown in any case."""
    document = {"error": {"http_code": code, "message": "bad thing"}}

    with pytest.raises(kind, match="bad thing"):
        upload_answer(a_spec(), UPLOAD_REQUEST, answer(document))


def a_cohort(**changes: object) -> Cohort:
    """The cohort that the example upload would make."""
    fields: dict[str, object] = {
        "id": "c",
        "name": "New Cohort",
        "owners": ("DataMonster@amplitude.com",),
        "type": "manual_upload",
        "created_at": NOW.replace(microsecond=0),
    }

    return Cohort(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_cohort_of_a_lost_answer_is_found():
    """Whole seconds and a clock a little behind do not hide it."""
    ours = a_cohort()
    late = a_cohort(created_at=NOW - timedelta(seconds=1.5), type=None)
    others = [a_cohort(name="Other"), a_cohort(created_at=NOW - timedelta(seconds=3))]
    found = find_created([*others, ours], a_spec(), attempted_at=NOW)

    assert ([ours], [ours]) == found
    assert [late] == find_created([late], a_spec(), attempted_at=NOW)[0]


@pytest.mark.parametrize(
    "changes", [{"owners": ()}, {"type": "redshift"}, {"created_at": None}]
)
def test_a_doubtful_cohort_is_a_candidate(changes: dict[str, object]):
    """What fits in name only is told, not taken."""
    doubtful = a_cohort(**changes)

    assert ([], [doubtful]) == find_created([doubtful], a_spec(), attempted_at=NOW)


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"cohort_id": "other"}, "cohort 'other'"),
        ({"memberships_result": [{"operation": "REMOVE"}]}, "REMOVE"),
        (
            {"memberships_result": [{"operation": "ADD", "id_type": "BY_ID"}]},
            "BY_ID",
        ),
    ],
)
def test_an_update_of_something_else_is_none(document: object, told: str):
    """
    It is an error that says what was answered, and that something may have happened.
    """
    with pytest.raises(UnexpectedResponseError, match=told) as caught:
        skipped_ids(CHANGE_REQUEST, answer(document), CHANGES)

    assert caught.value.may_have_happened


def test_an_upload_into_another_cohort_is_told():
    """What was to be filled is named, and so is what the answer names."""
    spec = a_spec(replace="1a2bc3d")
    request = upload_request(spec, [b'"a"'])

    with pytest.raises(UnexpectedResponseError, match=r"'other'.*'1a2bc3d'"):
        upload_answer(spec, request, answer({"cohortId": "other"}))


def test_a_new_word_for_the_type_of_id_is_no_error():
    """Only the other of the two documented words says that ids were misread."""
    result = {"skipped_ids": ["a"], "operation": "add", "id_type": "BY_USER"}

    assert [["a"]] == skipped_ids(
        CHANGE_REQUEST,
        answer({"cohort_id": "c", "memberships_result": [result]}),
        CHANGES,
    )


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([("ADD", "BY_NAME", "a"), ("REMOVE", "BY_ID", "1")], [["a"], ["1"]]),
        ([("REMOVE", "BY_ID", "1"), ("ADD", "BY_NAME", "a")], [["a"], ["1"]]),
        ([("REMOVE", None, "1")], [[], ["1"]]),
        ([(None, None, "a"), (None, None, "1")], [["a"], ["1"]]),
    ],
)
def test_skipped_ids_are_those_of_their_entry(
    results: list[tuple[str | None, str | None, str]], expected: list[list[str]]
):
    """Found by operation and type where they are told, by place where they are not."""
    entries = [
        an_entry("ADD", "a"),
        an_entry("REMOVE", "1", id_type=IdType.AMPLITUDE_ID),
    ]
    request = membership_request("c", Membership(id_type=IdType.USER_ID), entries)
    told = [
        {"skipped_ids": [id_], "operation": change, "id_type": kind}
        for change, kind, id_ in results
    ]

    assert expected == skipped_ids(
        request, answer({"memberships_result": told}), entries
    )


def test_an_answer_about_another_pair_of_words_is_an_error():
    """Each word was asked for, but not both of one entry."""
    entries = [
        an_entry("ADD", "a"),
        an_entry("REMOVE", "1", id_type=IdType.AMPLITUDE_ID),
    ]
    request = membership_request("c", Membership(id_type=IdType.USER_ID), entries)
    told = {"operation": "ADD", "id_type": "BY_ID"}

    with pytest.raises(UnexpectedResponseError, match="ADD BY_ID"):
        skipped_ids(request, answer({"memberships_result": [told]}), entries)


@pytest.mark.parametrize(
    ("id_type", "count_group", "attribute"),
    [
        (IdType.USER_ID, "User", "user_id"),
        (IdType.USER_ID, "company", "group"),
        (IdType.AMPLITUDE_ID, "User", "amplitude_id"),
    ],
)
def test_the_id_of_a_member(id_type: IdType, count_group: str, attribute: str):
    """A user's id is its user id, a group's its name."""
    assert attribute == id_attribute(id_type, count_group)
