"""
JSON documents into models, tolerantly: the one cattrs converter.

What it forgives, because the service has been seen to do it:

- a key in either spelling, as in ``cohortId`` and ``cohort_id``;
- null for any value that has a default;
- a time as epoch seconds, epoch milliseconds or ISO 8601; one without a zone
  is UTC;
- one string where a list of strings is due, as in ``owner``;
- keys nobody has heard of: they are kept in ``extra``.

What it does not forgive is a value that means something else than it should:
that is an `UnexpectedResponseError` with the path to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from ..errors import UnexpectedResponseError
from ..models import Cohort, CohortSync, Usage

if TYPE_CHECKING:
    from cattrs import Converter

T = TypeVar("T")

_MILLISECONDS_FROM = 1e11  # as seconds this would be the year 5138

_COHORT_KEYS = {
    "appId": "app_id",
    "cohortId": "id",
    "cohort_id": "id",
    "createdAt": "created_at",
    "isOfficialContent": "is_official_content",
    "isPredictive": "is_predictive",
    "lastComputed": "last_computed",
    "lastMod": "last_modified",
    "last_mod": "last_modified",
    "lastViewed": "last_viewed",
    "owner": "owners",
    "syncMetadata": "syncs",
    "sync_metadata": "syncs",
    "viewCount": "view_count",
}
_USAGE_KEYS = {"usage": "used", "resetsAt": "resets_at"}
_KEYS: Mapping[type, Mapping[str, str]] = {Cohort: _COHORT_KEYS, Usage: _USAGE_KEYS}


def structure(value: object, model: type[T], *, path: str) -> T:
    """
    Make a *model* of decoded JSON.

    Args:
        path: Where *value* stands in its document, for the message.

    Raises:
        UnexpectedResponseError: The value cannot be read as one.
    """
    from cattrs import BaseValidationError, transform_error  # noqa: PLC0415 - slow

    try:
        return _converter().structure(value, model)
    except (BaseValidationError, TypeError, ValueError) as error:
        # cattrs nests groups of groups; its own flattening gives one line
        # each, as in "invalid type, expected int @ $.size".
        reasons = transform_error(error, path=path)
        reason, _, where = reasons[0].partition(" @ ")
        raise UnexpectedResponseError(
            f"the answer cannot be read: {reason} at {where or path}; if it "
            f"comes from Amplitude itself, please report it",
            path=where or path,
        ) from None


@cache
def _converter() -> Converter:
    from cattrs import Converter  # noqa: PLC0415 - slow

    converter = Converter()
    converter.register_structure_hook(datetime, lambda value, _: to_utc(value))
    converter.register_structure_hook(bool, lambda value, _: _to_bool(value))
    converter.register_structure_hook(int, lambda value, _: _to_int(value))
    converter.register_structure_hook(str, lambda value, _: _to_str(value))
    converter.register_structure_hook_func(
        lambda kind: kind == Sequence[str], lambda value, _: _to_strings(value)
    )
    converter.register_structure_hook_func(
        lambda kind: kind == Mapping[str, object], lambda value, _: _to_mapping(value)
    )

    for model in (CohortSync, Cohort, Usage):
        _register(converter, model)

    return converter


def _register(converter: Converter, model: type[T]) -> None:
    from cattrs.gen import make_dict_structure_fn  # noqa: PLC0415 - slow

    from_attributes = make_dict_structure_fn(model, converter)
    fit = _fitter(model)
    converter.register_structure_hook(
        model, lambda value, _: from_attributes(fit(value), model)
    )


def _fitter(model: type) -> Callable[[object], dict[str, object]]:
    from attrs import fields  # noqa: PLC0415 - beside its only use

    names = {field.name for field in fields(model)}
    spellings = {name: name for name in names - {"extra"}} | dict(_KEYS.get(model, {}))

    def fit(value: object) -> dict[str, object]:
        fitted: dict[str, object] = {}
        extra: dict[str, object] = {}

        for key, item in _to_mapping(value).items():
            name = spellings.get(key)
            if name is None:
                extra[key] = item
            elif item is not None:
                fitted[name] = item

        if "extra" in names:
            fitted["extra"] = extra

        return fitted

    return fit


def to_utc(value: object) -> datetime:
    """
    Read a time in any of the forms the service uses.

    Raises:
        ValueError: It is in none of them.
    """
    if isinstance(value, str) and not value.lstrip("-").replace(".", "").isdecimal():
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)

    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(f"{type(value).__name__} is no time")

    seconds = float(value)

    try:
        if abs(seconds) >= _MILLISECONDS_FROM:
            seconds /= 1000
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError) as error:
        raise ValueError(f"{value} is no time") from error


def _to_bool(value: object) -> bool:
    match value:
        case bool():
            return value
        case 0 | 1:
            return bool(value)
        case "true" | "false":
            return value == "true"
        case _:
            raise TypeError(f"{type(value).__name__} is neither true nor false")


def _to_int(value: object) -> int:
    match value:
        case bool():
            raise TypeError("a truth value is no number")
        case int():
            return value
        case float() if value.is_integer():
            return int(value)
        case str() if value.lstrip("-").isdecimal():
            return int(value)
        case _:
            raise TypeError(f"{type(value).__name__} is no whole number")


def _to_str(value: object) -> str:
    if isinstance(value, str):
        return value

    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)

    raise TypeError(f"{type(value).__name__} is no text")


def _to_strings(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)

    if not isinstance(value, list):
        raise TypeError(f"{type(value).__name__} is no list")

    return tuple(_to_str(item) for item in value if item is not None)


def _to_mapping(value: object) -> Mapping[str, object]:
    if isinstance(value, dict):
        return value

    raise TypeError(f"{type(value).__name__} is no object")
