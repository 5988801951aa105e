"""
Decoded JSON as values, read tolerantly by two cattrs converters.

Every answer and every error body is an attrs class that is structured here. Accepted,
because the service has been seen to send it:

- a key in either spelling, as in ``cohortId`` and ``cohort_id``;
- null for any value that has a default;
- a time as epoch seconds, epoch milliseconds or ISO 8601, in UTC if it has no zone;
- one string in place of a list of strings, as in ``owner``;
- unknown keys: kept in ``extra`` where the class has one.

A value of another meaning is an `UnexpectedResponseError` with its path. In a tolerant
class it leaves the attribute at its default, and is kept in ``extra``: one odd value
must not hide a list of cohorts.

The hooks are cattrs', which dispatches on types and describes errors. The loop over
an object's keys is ours: a list has 5,000 cohorts of 30 keys, and the code cattrs
generates looks up each attribute instead of each key, which is a third slower. That
code runs in the second, detailed converter only: it reads what the first one could not,
for the message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from types import NoneType
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast, get_args, get_type_hints

import attrs

from ..errors import UnexpectedResponseError
from ..models import Cohort, CohortSync, Usage
from .redact import redact_links, shorten

if TYPE_CHECKING:
    from cattrs import Converter

T = TypeVar("T")
Hook: TypeAlias = "Callable[[object, object], T]"

_MILLISECONDS_FROM = 1e11  # as seconds this would be the year 5138

# Keys that are neither an attribute's name nor that name in camel case.
_KEYS: Mapping[type, Mapping[str, str]] = {
    Cohort: {
        "cohortId": "id",
        "cohort_id": "id",
        "lastMod": "last_modified",
        "last_mod": "last_modified",
        "owner": "owners",
        "syncMetadata": "syncs",
        "sync_metadata": "syncs",
    },
    Usage: {"usage": "used"},
}


class Tolerant:
    """
    Base of attrs classes whose attributes all have defaults.

    An attribute keeps its default where the answer holds an unreadable value.
    """

    __slots__ = ()


# Public classes cannot have that base.
_TOLERANT: tuple[type, ...] = (Tolerant, Cohort, CohortSync)


def structure(value: object, model: type[T], *, path: str) -> T:
    """
    Return a *model* made of decoded JSON, or raise `UnexpectedResponseError`.

    The *path* says where *value* stands in its document.
    """
    try:
        return _converter(is_detailed=False).structure(value, model)
    except Exception:  # noqa: BLE001 - the detailed converter describes it
        return _structure_in_detail(value, model, path=path)


def odd_fields(value: Cohort | CohortSync) -> Iterator[str]:
    """Yield the keys, as the answer spells them, of what could not be read."""
    model: type = type(value)
    spellings = _spellings(model)
    yield from [key for key in value.extra if key in spellings]

    if isinstance(value, Cohort):
        for index, sync in enumerate(value.syncs):
            yield from [f"syncMetadata[{index}].{key}" for key in odd_fields(sync)]


def generate() -> None:
    """Build the hooks now, not with the first answer."""
    for model in (Cohort, Usage):
        _converter(is_detailed=False).get_structure_hook(model)


def _structure_in_detail(value: object, model: type[T], *, path: str) -> T:
    from cattrs import BaseValidationError, transform_error  # noqa: PLC0415 - slow

    try:
        return _converter(is_detailed=True).structure(value, model)
    except (BaseValidationError, TypeError, ValueError) as error:
        # cattrs nests exception groups; its own flattening gives one line for each
        # error, as in "invalid type, expected int @ $.size".
        reasons = transform_error(error, path=path)
        reason, _, where = reasons[0].partition(" @ ")
        reason = shorten(redact_links(reason))
        raise UnexpectedResponseError(
            f"the answer cannot be read: {reason} at {where or path}; if it "
            f"comes from Amplitude itself, please report it",
            path=where or path,
        ) from None


@cache
def _converter(*, is_detailed: bool) -> Converter:
    from cattrs import Converter  # noqa: PLC0415 - slow

    # Keeping track of the path takes a fifth of cattrs' time, and only a message
    # needs it.
    converter = Converter(detailed_validation=is_detailed)
    converter.register_structure_hook(datetime, to_utc)
    converter.register_structure_hook(bool, _to_bool)
    converter.register_structure_hook(int, _to_int)
    converter.register_structure_hook(str, _to_str)
    converter.register_structure_hook_func(
        lambda kind: kind == Sequence[str], _to_strings
    )
    converter.register_structure_hook_func(
        lambda kind: kind == Mapping[str, object], _to_mapping
    )

    converter.register_structure_hook_func(
        lambda kind: kind is object, lambda value, _: value
    )

    def hook_of(model: type[object]) -> Hook[object]:
        return _model_hook(converter, model)

    converter.register_structure_hook_factory(attrs.has, hook_of)

    return converter


def _model_hook(converter: Converter, model: type[T]) -> Hook[T]:
    if not converter.detailed_validation or issubclass(model, _TOLERANT):
        read = _attribute_reader(model, converter.get_structure_hook)
        return lambda value, _: model(**read(value))

    from cattrs.gen import make_dict_structure_fn  # noqa: PLC0415 - slow

    from_attributes = make_dict_structure_fn(model, converter)
    rename = _attribute_reader(model, lambda _: lambda item, _: item)

    return lambda value, _: from_attributes(rename(value), model)


def _attribute_reader(
    model: type, hook_of: Callable[[type], Hook[object]]
) -> Callable[[object], dict[str, object]]:
    kinds = {name: _not_none(kind) for name, kind in get_type_hints(model).items()}
    has_extra = "extra" in kinds
    is_tolerant = issubclass(model, _TOLERANT)
    readers = {
        key: (name, kinds[name], hook_of(kinds[name]))
        for key, name in _spellings(model).items()
    }

    def read(value: object) -> dict[str, object]:
        attributes: dict[str, object] = {}
        extra: dict[str, object] = {}

        for key, item in _to_mapping(value).items():
            try:
                name, kind, hook = readers[key]
            except KeyError:
                extra[key] = item
            else:
                if type(item) is kind:
                    attributes[name] = item
                elif item is not None:
                    try:
                        attributes[name] = hook(item, kind)
                    except Exception:
                        if not is_tolerant:
                            raise
                        extra[key] = item

        if has_extra:
            attributes["extra"] = extra

        return attributes

    return read


@cache
def _spellings(model: type) -> Mapping[str, str]:
    """Return the attributes of a model by the keys that an answer may have for them."""
    names = [name for name in get_type_hints(model) if name != "extra"]

    return {
        **{_camel(name): name for name in names},
        **{name: name for name in names},
        **_KEYS.get(model, {}),
    }


def _camel(name: str) -> str:
    first, *others = name.split("_")

    return first + "".join(other.capitalize() for other in others)


def _not_none(kind: object) -> type:
    kinds = get_args(kind)

    if NoneType in kinds:
        (kind,) = (option for option in kinds if option is not NoneType)

    return cast("type", kind)


def to_utc(value: object, _kind: object = None) -> datetime:
    """Return a time given in any of the service's forms, or raise `ValueError`."""
    if type(value) is int and 0 <= value < _MILLISECONDS_FROM:
        return datetime.fromtimestamp(value, UTC)

    if isinstance(value, str) and not value.lstrip("-").replace(".", "").isdecimal():
        time = datetime.fromisoformat(value)
        return time.replace(tzinfo=time.tzinfo or UTC).astimezone(UTC)

    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(f"{type(value).__name__} is not a time")

    seconds = float(value)

    try:
        if abs(seconds) >= _MILLISECONDS_FROM:
            seconds /= 1000
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError) as error:
        raise ValueError(f"{value} is not a time") from error


def _to_bool(value: object, _kind: object = None) -> bool:
    match value:
        case True | False | 0 | 1:
            return bool(value)
        case "true" | "false":
            return value == "true"
        case _:
            raise TypeError(f"{type(value).__name__} is neither true nor false")


def _to_int(value: object, _kind: object = None) -> int:
    # The common case first; bool is a subclass of int.
    if type(value) is int:
        return value

    if (isinstance(value, float) and value.is_integer()) or (
        isinstance(value, str) and value.lstrip("-").isdecimal()
    ):
        return int(value)

    raise TypeError(f"{type(value).__name__} is not a whole number")


def _to_str(value: object, _kind: object = None) -> str:
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)

    raise TypeError(f"{type(value).__name__} is not text")


def _to_strings(value: object, _kind: object = None) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)

    if not isinstance(value, list):
        raise TypeError(f"{type(value).__name__} is not a list")

    items = cast("list[object]", value)

    # There may be 100,000, and one call for each takes ten times as long.
    if {*map(type, items)} <= {str}:
        return tuple(cast("list[str]", items))

    return tuple([_to_str(item) for item in items if item is not None])


def _to_mapping(value: object, _kind: object = None) -> Mapping[str, object]:
    if isinstance(value, dict):
        return cast("dict[str, object]", value)

    raise TypeError(f"{type(value).__name__} is not an object")
