"""
What goes over the wire, as values: the bodies of writes, read strictly, and
answers in the shapes the live service sends.

https://amplitude.com/docs/apis/analytics/behavioral-cohorts
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar, cast
from xml.sax.saxutils import escape

import attrs

__all__ = (
    "Answer",
    "FileBody",
    "IdKind",
    "Operation",
    "Refused",
    "Update",
    "Upload",
    "envelope",
    "json_answer",
    "parse_update",
    "parse_upload",
    "xml_answer",
)

_JSON_HEADERS = {
    "Content-Type": "application/json; charset=UTF-8",
    "Cache-Control": "no-cache",
    "Server-Timing": "dash;dur=42",
    "Set-Cookie": "SERVERID=; Expires=Thu, 01-Jan-1970 00:00:01 GMT; path=/",
}


@attrs.frozen
class FileBody:
    """A part of a file on disk, to be sent without reading it here."""

    path: Path
    start: int
    stop: int

    def __len__(self) -> int:
        """Count the bytes."""
        return self.stop - self.start


@attrs.frozen(kw_only=True)
class Answer:
    """
    One answer.

    Attributes:
        chunked: Whether it goes out in chunks, without a Content-Length.
    """

    status: int
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])
    body: bytes | FileBody = b""
    chunked: bool = False


class Refused(Exception):  # noqa: N818 - the service's word, not our error
    """
    The service says no.

    Attributes:
        details: The one informative text of the vendor's error envelope.
        rule: The rule the client broke, if it broke one.
        metadata: Further fields beside the details.
    """

    def __init__(
        self,
        status: int,
        details: str,
        *,
        rule: str | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(details)
        self.status = status
        self.details = details
        self.rule = rule
        self.metadata: Mapping[str, object] = metadata or {}


def json_answer(value: object, *, status: int = 200) -> Answer:
    """Return *value* as the live service sends JSON: chunked, with a weak tag."""
    body = json.dumps(value, separators=(",", ":")).encode()
    tag = hashlib.sha1(body, usedforsecurity=False).hexdigest()

    return Answer(
        status=status,
        headers={**_JSON_HEADERS, "Etag": f'W/"{tag}"'},
        body=body,
        chunked=True,
    )


def envelope(
    status: int, details: str, *, metadata: Mapping[str, object] | None = None
) -> Answer:
    """Return the error envelope that all endpoints of the vendor share."""
    error = {
        "http_code": status,
        "type": "unspecified",
        "message": "Unspecified Error",
        "metadata": {"details": details, **(metadata or {})},
    }

    return json_answer({"error": error}, status=status)


def xml_answer(status: int, code: str, message: str, **more: str) -> Answer:
    """Return an error of the store, in its XML."""
    parts = {"Code": code, "Message": message, **more, "RequestId": "4YHEP1F2R3J7D0AB"}
    inner = "".join(f"<{name}>{escape(text)}</{name}>" for name, text in parts.items())
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inner}</Error>'

    return Answer(
        status=status,
        headers={"Content-Type": "application/xml", "Server": "AmazonS3"},
        body=body.encode(),
        chunked=True,
    )


IdKind = Literal["name", "id"]
_T = TypeVar("_T")
# The page's own example has letters at the end: "10101010101010ID1".
_AMPLITUDE_ID = re.compile("[0-9][0-9A-Za-z]*")

# Each endpoint spells the two kinds of id in its own way.
_UPLOAD_ID_KINDS: Mapping[str, IdKind] = {"BY_USER_ID": "name", "BY_AMP_ID": "id"}
_UPDATE_ID_KINDS: Mapping[str, IdKind] = {"BY_NAME": "name", "BY_ID": "id"}

_UPLOAD_REQUIRED = ("name", "app_id", "id_type", "ids", "owner", "published")
_UPLOAD_OPTIONAL = ("cg", "skip_save", "skip_invalid_ids", "existing_cohort_id")


@attrs.frozen(kw_only=True)
class Upload:
    """
    The body of an upload.

    Attributes:
        id_kind: Whether ids are names (user ids) or Amplitude ids.
        group: The count group; None for users.
        replaces: The cohort whose contents they replace.
    """

    name: str
    app_id: int | None
    id_kind: IdKind
    ids: Sequence[str] = attrs.field(repr=False)
    owner: str
    published: bool
    group: str | None
    skip_save: bool
    skip_invalid: bool
    replaces: str | None


@attrs.frozen(kw_only=True)
class Operation:
    """One entry of an update."""

    ids: Sequence[str] = attrs.field(repr=False)
    id_kind: IdKind
    id_type: str
    operation: str


@attrs.frozen(kw_only=True)
class Update:
    """The body of an update of memberships."""

    cohort_id: str
    group: str | None
    operations: Sequence[Operation]
    skip_invalid: bool


def parse_upload(
    body: bytes, *, max_ids: int, required: Collection[str] = _UPLOAD_REQUIRED
) -> Upload:
    """
    Read the body of an upload.

    Args:
        max_ids: Identifiers that one request may have.
        required: The fields that must be there.
    """
    known = (*_UPLOAD_REQUIRED, *_UPLOAD_OPTIONAL)
    fields = _Fields(_object(body), required, known)
    ids = fields.ids()
    id_kind = _UPLOAD_ID_KINDS[fields.choice("id_type", _UPLOAD_ID_KINDS)]
    group = _group(fields.get("cg", str, "User"))
    _check_count(len(ids), max_ids)
    _check_ids(ids, id_kind, group)

    return Upload(
        name=fields.text("name"),
        app_id=fields.get("app_id", int, None),
        id_kind=id_kind,
        ids=ids,
        owner=fields.text("owner"),
        published=fields.get("published", bool, True),
        group=group,
        skip_save=fields.get("skip_save", bool, False),
        skip_invalid=fields.get("skip_invalid_ids", bool, True),
        replaces=fields.get("existing_cohort_id", str, None),
    )


def parse_update(body: bytes, *, max_ids: int) -> Update:
    """
    Read the body of an update of memberships.

    Args:
        max_ids: Identifiers that one request may have, all entries together.
    """
    required = ("cohort_id", "memberships")
    known = (*required, "count_group", "skip_invalid_ids")
    fields = _Fields(_object(body), required, known)
    entries: list[object] = fields.get("memberships", list, [])

    if not entries:
        raise _bad("memberships is empty")

    operations = [_operation(entry) for entry in entries]
    group = _group(fields.get("count_group", str, "User"))
    _check_count(sum(len(entry.ids) for entry in operations), max_ids)

    for entry in operations:
        _check_ids(entry.ids, entry.id_kind, group)

    return Update(
        cohort_id=fields.text("cohort_id"),
        group=group,
        operations=operations,
        skip_invalid=fields.get("skip_invalid_ids", bool, True),
    )


class _Fields:
    """A JSON object, every field of which is checked."""

    def __init__(
        self,
        values: Mapping[str, object],
        required: Collection[str],
        known: Collection[str],
    ) -> None:
        if missing := [name for name in required if name not in values]:
            raise _bad(f"missing required field {missing[0]}")

        if unknown := [name for name in values if name not in known]:
            raise _bad(f"unknown field {unknown[0]}")

        self._values = values

    def get(self, name: str, kind: type, default: _T) -> _T:
        """Return a field of exactly this type: true is no integer here."""
        if name not in self._values:
            return default

        value = self._values[name]

        if type(value) is not kind:
            raise _bad(f"{name} must be a JSON {_JSON_NAMES[kind]}")

        return cast("_T", value)

    def text(self, name: str) -> str:
        """Return a text that is not empty, if it is there at all."""
        text = self.get(name, str, "")

        if name in self._values and not text:
            raise _bad(f"{name} is empty")

        return text

    def choice(self, name: str, choices: Mapping[str, object]) -> str:
        """Return one of *choices*; the first of them if the field is not there."""
        first = next(iter(choices))
        choice = self.get(name, str, first)

        if choice not in choices:
            raise _bad(f"{name} must be one of {', '.join(choices)}, not {choice}")

        return choice

    def ids(self) -> list[str]:
        """Return the identifiers; at least one."""
        ids: list[str] = self.get("ids", list, [])

        if not ids:
            raise _bad("ids is empty")

        if set(map(type, ids)) != {str}:
            raise _bad("ids must be a JSON array of strings")

        return ids


_JSON_NAMES = {int: "integer", str: "string", bool: "boolean", list: "array"}


def _operation(entry: object) -> Operation:
    if not isinstance(entry, dict):
        raise _bad("memberships must be a JSON array of objects")

    names = ("ids", "id_type", "operation")
    fields = _Fields(cast("dict[str, object]", entry), names, names)
    id_type = fields.choice("id_type", _UPDATE_ID_KINDS)

    return Operation(
        ids=fields.ids(),
        id_kind=_UPDATE_ID_KINDS[id_type],
        id_type=id_type,
        operation=fields.choice("operation", {"ADD": None, "REMOVE": None}),
    )


def _object(body: bytes) -> dict[str, object]:
    try:
        value: object = json.loads(body)
    except ValueError:
        raise _bad("the body is not JSON") from None

    if not isinstance(value, dict):
        raise _bad("the body is not a JSON object")

    return cast("dict[str, object]", value)


def _group(name: str) -> str | None:
    return None if name == "User" else name


def _check_count(count: int, max_ids: int) -> None:
    if count > max_ids:
        raise Refused(
            413, f"{count} identifiers in one request; at most {max_ids}", rule="ids"
        )


def _check_ids(ids: Sequence[str], kind: IdKind, group: str | None) -> None:
    # The page does not say what a group's id looks like.
    if kind == "name" or group is not None:
        return

    if odd := [name for name in ids if not _AMPLITUDE_ID.fullmatch(name)]:
        raise _bad(f"{odd[0]} is no Amplitude id")


def _bad(details: str) -> Refused:
    return Refused(400, details, rule="body")
