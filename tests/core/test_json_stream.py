"""Long JSON lists, element by element."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amplitude_cohorts_async._core import json_stream as module
from amplitude_cohorts_async._core.json_stream import elements, opening_of, whole_part

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.fixture(params=[1, 7, 65_536])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of any size, so that everything is cut everywhere."""
    monkeypatch.setattr(module, "_PIECE", request.param)


def read(body: bytes) -> list[object]:
    """Read the list of a document that has one."""
    start = opening_of(body, "cohorts")
    assert start is not None

    return list(elements(body, start))


@pytest.mark.usefixtures("piece")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    listed=st.lists(VALUES),
    others=st.dictionaries(st.text(), VALUES, max_size=2),
    indent=st.sampled_from([None, 2]),
    ascii_only=st.booleans(),
)
def test_they_are_what_the_whole_document_holds(
    listed: list[object],
    others: dict[str, object],
    indent: int | None,
    ascii_only: bool,
):
    """However the text is cut into windows, the elements are the same."""
    document = {"cohorts": listed} | {"x" + key: others[key] for key in others}
    text = json.dumps(document, indent=indent, ensure_ascii=ascii_only)
    body = text.encode("utf-8", "surrogatepass")
    try:
        body.decode()
    except UnicodeDecodeError:
        return
    assert listed == read(body)


@pytest.mark.parametrize(
    "text",
    [
        '{"cohorts":[{"id":1},\u00a0{"id":2}]}',
        '{"cohorts":[{"id":1}]\x0c}',
        '{"cohorts":[],}',
        '{"cohorts":[{"id":1}] "a":1}',
        '{"cohorts":[{"id":1}],a}',
    ],
)
def test_what_is_nearly_json_is_refused(text: str):
    """Where the decoder does not look, the grammar is the same."""
    with pytest.raises(ValueError):
        json.loads(text)
    with pytest.raises(ValueError):
        read(text.encode())


def test_a_long_element_is_not_begun_again_for_each_piece(
    monkeypatch: pytest.MonkeyPatch,
):
    """The more there is of it, the more is added before the next attempt."""
    pieces = 0
    lengthen = module._Window._lengthen

    def counted(self: module._Window) -> bool:
        nonlocal pieces
        pieces += 1
        return lengthen(self)

    monkeypatch.setattr(module._Window, "_lengthen", counted)
    element = {"id": "x" * (64 * 65_536)}

    assert [element] == read(json.dumps({"cohorts": [element]}).encode())
    assert pieces < 12


def test_what_is_broken_among_many_is_refused():
    """A fault behind elements that are whole is found."""
    body = json.dumps(
        {"cohorts": [{"id": n} for n in range(50)]}, separators=(",", ":")
    )

    for broken in (body.replace('"id":33', '"id":'), body.replace("},{", "},,{", 1)):
        with pytest.raises(ValueError):
            read(broken.encode())


@pytest.mark.usefixtures("piece")
def test_a_cut_document_is_refused_wherever_it_is_cut():
    """No part of a document passes for the whole of it."""
    body = json.dumps({"cohorts": [{"id": "ä"}, 12, [True]], "more": 1}).encode()
    start = opening_of(body, "cohorts")
    assert start is not None

    for end in range(start, len(body)):
        with pytest.raises(ValueError):
            list(elements(body[:end], start))


@pytest.mark.parametrize(
    "body",
    [b"[]", b'{"other": []}', b'{"cohorts": {}}', b'{"a": 1, "cohorts": []}', b""],
)
def test_other_documents_are_not_begun(body: bytes):
    """A document of another shape is left to be decoded as a whole."""
    assert opening_of(body, "cohorts") is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.data(),
)
def test_a_document_that_is_cut_off(document: object, data: st.DataObject) -> None:
    """Wherever it is cut: the part is a document, or stays as it is."""
    body = json.dumps(document).encode()
    cut = body[: data.draw(st.integers(0, len(body)))]
    part = whole_part(cut)

    assert part == cut or json.loads(part) is not None


def test_the_whole_part_of_a_list() -> None:
    """What is whole at the cut is kept, and no more."""
    cut = b'{"error": {"metadata": {"ids": ["a", "b,", "c'

    assert {"error": {"metadata": {"ids": ["a", "b,"]}}} == json.loads(whole_part(cut))


@pytest.mark.parametrize("piece", [b'"', b'\\"', b"[", b"{", b'"\\', b","])
def test_hostile_cuts_take_no_time(piece: bytes) -> None:
    """Quotes and brackets without end stay as they are, at once."""
    assert piece * 60_000 == whole_part(piece * 60_000)
