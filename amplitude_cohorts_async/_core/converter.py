"""
JSON documents into values, tolerantly: the one cattrs converter.

Every answer and every error body is an attrs class that is read here. What it
forgives, because the service has been seen to do it:

- a key in either spelling, as in ``cohortId`` and ``cohort_id``;
- null for any value that has a default;
- a time as epoch seconds, epoch milliseconds or ISO 8601; one without a zone
  is UTC;
- one string where a list of strings is due, as in ``owner``;
- keys that are not known: they are kept in ``extra``, where there is one.

What it does not forgive is a value that means something else than it should:
that is an `UnexpectedResponseError` with the path to it. A `Tolerant` class
leaves what cannot be read at its default.

The hooks are cattrs', which dispatches on types and describes what is wrong. The
loop over the keys of an object is ours: a list has 5,000 cohorts of 30 keys, and
what cattrs generates looks for each attribute instead of taking what came, which
is a third slower. It runs where an answer is unreadable, for its messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from types import NoneType
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast, get_args, get_type_hints

import attrs

from ..errors import UnexpectedResponseError
from ..models import Cohort, Usage
from .redact import redact_links, shorten

if TYPE_CHECKING:
    from cattrs import Converter

T = TypeVar("T")
Hook: TypeAlias = "Callable[[object, object], T]"

_MILLISECONDS_FROM = 1e11  # as seconds this would be the year 5138

_COHORT_KEYS = {
    "cohortId": "id",
    "cohort_id": "id",
    "lastMod": "last_modified",
    "last_mod": "last_modified",
    "owner": "owners",
    "syncMetadata": "syncs",
    "sync_metadata": "syncs",
}
_KEYS: Mapping[type, Mapping[str, str]] = {
    Cohort: _COHORT_KEYS,
    Usage: {"usage": "used"},
}
"""Keys that are neither an attribute's name nor that in camel case."""


class Tolerant:
    """
    A base of attrs classes whose attributes all have defaults, and keep them where
    the answer holds something else than it should.
    """

    __slots__ = ()


def structure(value: object, model: type[T], *, path: str) -> T:
    """
    Return a *model* made of decoded JSON.

    Args:
        path: Where *value* stands in its document, for the message.

    Raises:
        UnexpectedResponseError: The value cannot be read as one.
    """
    try:
        return _converter(is_detailed=False).structure(value, model)
    except Exception:  # noqa: BLE001 - whatever it was, the second look describes it
        return _structure_in_detail(value, model, path=path)


def structure_each(
    values: Iterable[object], model: type[T], *, path: str
) -> Iterator[T]:
    """
    Return a *model* made of each element of a decoded list.

    Args:
        path: Where the list stands in its document.

    Raises:
        UnexpectedResponseError: An element cannot be read as one.
    """
    read = _converter(is_detailed=False).get_structure_hook(model)

    for index, value in enumerate(values):
        try:
            made = read(value, model)
        except Exception:  # noqa: BLE001 - as above
            made = _structure_in_detail(value, model, path=f"{path}[{index}]")

        yield made


def generate() -> None:
    """Generate the readers now, or the first answer has to."""
    for model in (Cohort, Usage):
        _converter(is_detailed=False).get_structure_hook(model)


def _structure_in_detail(value: object, model: type[T], *, path: str) -> T:
    from cattrs import BaseValidationError, transform_error  # noqa: PLC0415 - slow

    try:
        return _converter(is_detailed=True).structure(value, model)
    except (BaseValidationError, TypeError, ValueError) as error:
        # cattrs nests groups of groups; its own flattening gives one line
        # each, as in "invalid type, expected int @ $.size".
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

    # Keeping count of where it is takes a fifth of cattrs' time, and only a
    # message needs it.
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

    converter.register_structure_hook_func(lambda kind: kind is object, _to_object)

    def reader_of(model: type[object]) -> Hook[object]:
        return _reader_of(converter, model)

    converter.register_structure_hook_factory(attrs.has, reader_of)

    return converter


def _reader_of(converter: Converter, model: type[T]) -> Hook[T]:
    if converter.detailed_validation and not issubclass(model, Tolerant):
        return _in_detail(converter, model)

    return _in_one_go(converter, model)


def _in_detail(converter: Converter, model: type[T]) -> Hook[T]:
    from cattrs.gen import make_dict_structure_fn  # noqa: PLC0415 - slow

    from_attributes = make_dict_structure_fn(model, converter)
    fit = _fitter(model, lambda _: lambda item, _: item)

    return lambda value, _: from_attributes(fit(value), model)


def _in_one_go(converter: Converter, model: type[T]) -> Hook[T]:
    # What cattrs generates asks for each attribute, and calls a hook for each it
    # finds; with what came, and hooks for what needs one, it is a third faster.
    fit = _fitter(model, converter.get_structure_hook)

    return lambda value, _: model(**fit(value))


def _fitter(
    model: type, hook_of: Callable[[type], Hook[object]]
) -> Callable[[object], dict[str, object]]:
    kinds = {name: _not_none(kind) for name, kind in get_type_hints(model).items()}
    has_extra = kinds.pop("extra", None) is not None
    is_tolerant = issubclass(model, Tolerant)
    spellings = {_camel(name): name for name in kinds} | {name: name for name in kinds}
    spellings |= _KEYS.get(model, {})
    readers = {
        key: (name, kinds[name], hook_of(kinds[name]))
        for key, name in spellings.items()
    }

    def fit(value: object) -> dict[str, object]:
        fitted: dict[str, object] = {}
        extra: dict[str, object] = {}

        for key, item in _to_mapping(value).items():
            try:
                name, kind, hook = readers[key]
            except KeyError:
                extra[key] = item
            else:
                if type(item) is kind:
                    fitted[name] = item
                elif item is not None:
                    try:
                        fitted[name] = hook(item, kind)
                    except Exception:
                        if not is_tolerant:
                            raise

        if has_extra:
            fitted["extra"] = extra

        return fitted

    return fit


def _camel(name: str) -> str:
    first, *others = name.split("_")

    return first + "".join(other.capitalize() for other in others)


def _not_none(kind: object) -> type:
    kinds = get_args(kind)

    if NoneType in kinds:
        (kind,) = (each for each in kinds if each is not NoneType)

    return cast("type", kind)


def to_utc(value: object, _kind: object = None) -> datetime:
    """
    Return a time that is in any of the forms the service uses.

    Raises:
        ValueError: It is in none of them.
    """
    if type(value) is int and 0 <= value < _MILLISECONDS_FROM:
        return datetime.fromtimestamp(value, UTC)

    if isinstance(value, str) and not value.lstrip("-").replace(".", "").isdecimal():
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)

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
    if value is True or value is False:
        return value

    match value:
        case 0 | 1:
            return bool(value)
        case "true" | "false":
            return value == "true"
        case _:
            raise TypeError(f"{type(value).__name__} is neither true nor false")


def _to_int(value: object, _kind: object = None) -> int:
    # Nearly all are what they should be; bool is a kind of int, and none of it.
    if type(value) is int:
        return value

    match value:
        case bool():
            raise TypeError("a truth value is not a number")
        case float() if value.is_integer():
            return int(value)
        case str() if value.lstrip("-").isdecimal():
            return int(value)
        case _:
            raise TypeError(f"{type(value).__name__} is not a whole number")


def _to_str(value: object, _kind: object = None) -> str:
    if isinstance(value, str):
        return value

    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)

    raise TypeError(f"{type(value).__name__} is not text")


def _to_strings(value: object, _kind: object = None) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)

    if not isinstance(value, list):
        raise TypeError(f"{type(value).__name__} is not a list")

    items = cast("list[object]", value)

    # There may be 100,000, and a call for each takes ten times as long.
    if {*map(type, items)} <= {str}:
        return tuple(cast("list[str]", items))

    return tuple([_to_str(item) for item in items if item is not None])


def _to_mapping(value: object, _kind: object = None) -> Mapping[str, object]:
    if isinstance(value, dict):
        return cast("dict[str, object]", value)

    raise TypeError(f"{type(value).__name__} is not an object")


def _to_object(value: object, _kind: object = None) -> object:
    return value
