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

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from types import NoneType
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast, get_args, get_type_hints

from ..errors import UnexpectedResponseError
from ..models import Cohort, CohortSync, Usage
from .redact import redact_links, shorten

if TYPE_CHECKING:
    from cattrs import Converter

T = TypeVar("T")
Hook: TypeAlias = "Callable[[object, object], T]"

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
    try:
        return _converter(is_detailed=False).structure(value, model)
    except Exception:  # noqa: BLE001 - whatever it was, the second look tells it well
        return _structure_in_detail(value, model, path=path)


def structure_each(
    values: Iterable[object], model: type[T], *, path: str
) -> Iterator[T]:
    """
    Make a *model* of each element of a decoded list.

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
    """
    Generate the readers now; if nobody does, the first answer has to.
    """
    _converter(is_detailed=False)


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

    for model in (CohortSync, Cohort, Usage):
        _register(converter, model)

    return converter


def _register(converter: Converter, model: type[T]) -> None:
    if converter.detailed_validation:
        read = _in_detail(converter, model)
    else:
        read = _in_one_go(converter, model)

    converter.register_structure_hook(model, read)


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
    spellings = {name: name for name in kinds} | dict(_KEYS.get(model, {}))
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
                    fitted[name] = hook(item, kind)

        if has_extra:
            fitted["extra"] = extra

        return fitted

    return fit


def _not_none(kind: object) -> type:
    kinds = get_args(kind)

    if NoneType in kinds:
        (kind,) = (each for each in kinds if each is not NoneType)

    return cast("type", kind)


def to_utc(value: object, _kind: object = None) -> datetime:
    """
    Read a time in any of the forms the service uses.

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

    if not value:
        return ()

    return tuple(
        [_to_str(item) for item in cast("list[object]", value) if item is not None]
    )


def _to_mapping(value: object, _kind: object = None) -> Mapping[str, object]:
    if isinstance(value, dict):
        return cast("dict[str, object]", value)

    raise TypeError(f"{type(value).__name__} is not an object")
