"""
The bodies of writes, read strictly: every documented field and its type.

https://amplitude.com/docs/apis/analytics/behavioral-cohorts
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, TypeVar, cast

import attrs

from .answers import Refused

__all__ = ("Operation", "Update", "Upload", "parse_update", "parse_upload")

Named = Literal["name", "id"]
_T = TypeVar("_T")

# Each endpoint has its own words for the two kinds of id.
_UPLOAD_WORDS: Mapping[str, Named] = {"BY_USER_ID": "name", "BY_AMP_ID": "id"}
_UPDATE_WORDS: Mapping[str, Named] = {"BY_NAME": "name", "BY_ID": "id"}

_UPLOAD_REQUIRED = ("name", "app_id", "id_type", "ids", "owner", "published")
_UPLOAD_OPTIONAL = ("cg", "skip_save", "skip_invalid_ids", "existing_cohort_id")


@attrs.frozen(kw_only=True)
class Upload:
    """
    The body of an upload.

    Attributes:
        named: Whether ids are names (user ids) or Amplitude ids.

        group: The count group; None for users.

        replaces: The cohort whose contents they replace.
    """

    name: str
    app_id: int | None
    named: Named
    ids: Sequence[str] = attrs.field(repr=False)
    owner: str
    published: bool
    group: str | None
    skip_save: bool
    skip_invalid: bool
    replaces: str | None


@attrs.frozen(kw_only=True)
class Operation:
    """
    One entry of an update.
    """

    ids: Sequence[str] = attrs.field(repr=False)
    named: Named
    id_type: str
    operation: str


@attrs.frozen(kw_only=True)
class Update:
    """
    The body of an update of memberships.
    """

    cohort_id: str
    group: str | None
    operations: Sequence[Operation]
    skip_invalid: bool


def parse_upload(
    body: bytes, *, most: int, required: Collection[str] = _UPLOAD_REQUIRED
) -> Upload:
    """
    Read the body of an upload.

    Args:
        most: Identifiers that one request may have.

        required: The fields that must be there.
    """
    known = (*_UPLOAD_REQUIRED, *_UPLOAD_OPTIONAL)
    fields = _Fields(_object(body), required, known)
    ids = fields.ids()
    _check_count(len(ids), most)

    return Upload(
        name=fields.text("name"),
        app_id=fields.get("app_id", int, None),
        named=_UPLOAD_WORDS[fields.word("id_type", _UPLOAD_WORDS)],
        ids=ids,
        owner=fields.text("owner"),
        published=fields.get("published", bool, True),
        group=_group(fields.get("cg", str, "User")),
        skip_save=fields.get("skip_save", bool, False),
        skip_invalid=fields.get("skip_invalid_ids", bool, True),
        replaces=fields.get("existing_cohort_id", str, None),
    )


def parse_update(body: bytes, *, most: int) -> Update:
    """
    Read the body of an update of memberships.

    Args:
        most: Identifiers that one request may have, all entries together.
    """
    required = ("cohort_id", "memberships")
    known = (*required, "count_group", "skip_invalid_ids")
    fields = _Fields(_object(body), required, known)
    entries: list[object] = fields.get("memberships", list, [])

    if not entries:
        raise _bad("memberships is empty")

    operations = [_operation(entry) for entry in entries]
    _check_count(sum(len(entry.ids) for entry in operations), most)

    return Update(
        cohort_id=fields.text("cohort_id"),
        group=_group(fields.get("count_group", str, "User")),
        operations=operations,
        skip_invalid=fields.get("skip_invalid_ids", bool, True),
    )


class _Fields:
    """
    A JSON object of which nothing is taken on trust.
    """

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
        """
        Return a field of exactly this type: true is no integer here.
        """
        if name not in self._values:
            return default

        value = self._values[name]

        if type(value) is not kind:
            raise _bad(f"{name} must be a JSON {_JSON_NAMES[kind]}")

        return cast("_T", value)

    def text(self, name: str) -> str:
        """
        Return a text that is not empty, if it is there at all.
        """
        text = self.get(name, str, "")

        if name in self._values and not text:
            raise _bad(f"{name} is empty")

        return text

    def word(self, name: str, words: Mapping[str, object]) -> str:
        """
        Return one of *words*; the first of them if the field is not there.
        """
        first = next(iter(words))
        word = self.get(name, str, first)

        if word not in words:
            raise _bad(f"{name} must be one of {', '.join(words)}, not {word}")

        return word

    def ids(self) -> list[str]:
        """
        Return the identifiers; at least one.
        """
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
    id_type = fields.word("id_type", _UPDATE_WORDS)

    return Operation(
        ids=fields.ids(),
        named=_UPDATE_WORDS[id_type],
        id_type=id_type,
        operation=fields.word("operation", {"ADD": None, "REMOVE": None}),
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


def _check_count(count: int, most: int) -> None:
    if count > most:
        raise Refused(
            413, f"{count} identifiers in one request; at most {most}", rule="ids"
        )


def _bad(details: str) -> Refused:
    return Refused(400, details, rule="body")
