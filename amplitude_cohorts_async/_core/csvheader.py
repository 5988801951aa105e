"""What the columns of a file are, by their names and never by their places."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from .csvtext import CsvError


@attrs.frozen(kw_only=True)
class Header:
    """
    Where the columns stand, counted from 0.

    Attributes:
        names: The cells of the header, as sent.

        amplitude_id: The column of Amplitude's ids; None when there is none.

        user_id: The column of your ids, likewise.

        group: The column of groups, likewise.

        properties: All other columns and what each is called; no name twice.
    """

    names: Sequence[str]
    amplitude_id: int | None
    user_id: int | None
    group: int | None
    properties: Sequence[tuple[int, str]]


def read_header(names: Sequence[str]) -> Header:
    """
    Tell the columns from the names in a file's first record.

    The first column of a name is the one meant. A user property may well be
    called "user_id", too: a later column of a name is a property. Properties
    of one name are called "plan", "plan (2)" and so on, so none hides another.

    Raises:
        CsvError: No column holds ids or groups.
    """
    # The service guards text of group cohorts, the header's too, with a TAB.
    bare = [name.removeprefix("\t") for name in names]
    places = {name: bare.index(name) for name in _KNOWN if name in bare}

    if not places:
        raise CsvError(
            f"has {len(names)} columns, and none is called amplitude_id, user_id "
            "or group_value",
            line=1,
        )

    others = [place for place in range(len(names)) if place not in places.values()]

    return Header(
        names=tuple(names),
        amplitude_id=places.get("amplitude_id"),
        user_id=places.get("user_id"),
        group=places.get("group_value"),
        properties=tuple(
            zip(others, distinct([names[place] for place in others]), strict=True)
        ),
    )


_KNOWN = ("amplitude_id", "user_id", "group_value")


def distinct(names: Sequence[str]) -> list[str]:
    """Number the later ones of equal names, so that each name stands once."""
    taken = set(names)
    seen: set[str] = set()
    distinct: list[str] = []

    for name in names:
        label, number = name, 2

        while label in seen or (label != name and label in taken):
            label, number = f"{name} ({number})", number + 1

        seen.add(label)
        distinct.append(label)

    return distinct
