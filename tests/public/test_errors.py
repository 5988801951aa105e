"""The errors: the tree as drawn, and what each of them survives."""

from __future__ import annotations

import copy
import inspect
import pickle
from datetime import UTC, datetime

import pytest

from amplitude_cohorts_async import errors

CLASSES = [getattr(errors, name) for name in errors.__all__]


def make(kind: type[errors.CohortsError]) -> errors.CohortsError:
    """Make an error with every attribute set."""
    first, *others = inspect.signature(kind).parameters
    words: dict[str, object] = {name: f"some {name}" for name in others}
    if "metadata" in words:
        words["metadata"] = {"details": "some details"}
    if "attempted_at" in words:
        words["attempted_at"] = datetime(2026, 11, 1, tzinfo=UTC)
    error = kind(f"some {first}", **words)  # type: ignore[arg-type]

    # Some attributes are told later, on the way up.
    for name in kind.__annotations__:
        vars(error).setdefault(name, f"some {name}")

    return error


def draw(kind: type[BaseException], depth: int = 0) -> list[tuple[int, str]]:
    """List the public classes below *kind* with their depth, as the picture does."""
    shown = kind.__name__ in errors.__all__
    line = [(depth, kind.__name__)] if shown else []
    below = depth + 1 if shown else depth

    return line + [pair for each in kind.__subclasses__() for pair in draw(each, below)]


def test_tree_is_as_drawn() -> None:
    """The picture at the head of the module is the tree of classes."""
    picture: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        bare = line.lstrip(" │├└─")
        if line.startswith("    ") and bare.split(" ")[0].endswith("Error"):
            picture.append(((len(line) - len(bare)) // 4 - 1, bare.split(" ")[0]))

    assert draw(errors.CohortsError) == picture
    assert sorted(errors.__all__) == sorted(name for _, name in picture)


def test_second_parents_are_as_drawn() -> None:
    """What stands in brackets is the class of Python's own that catches it too."""
    drawn = {
        line.strip(" │├└─")
        for line in (errors.__doc__ or "").splitlines()
        if "(" in line
    }

    for kind in CLASSES:
        foreign = [
            base.__name__
            for base in kind.__bases__
            if not issubclass(base, errors.CohortsError) and base is not Exception
        ]
        if foreign:
            assert f"{kind.__name__} ({foreign[0]})" in drawn


@pytest.mark.parametrize("kind", CLASSES)
def test_pickling_keeps_everything(kind: type[errors.CohortsError]) -> None:
    """An error crosses to another process with its class, words and attributes."""
    error = make(kind)

    for revived in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert kind is type(revived)
        assert str(error) == str(revived)
        assert vars(error) == vars(revived)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_can_offer_a_token(kind: type[errors.CohortsError]) -> None:
    """Nobody needs `getattr` to learn whether an export goes on."""
    error = make(kind)
    error.token = "token"

    assert "token" == pickle.loads(pickle.dumps(error)).token
