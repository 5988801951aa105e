"""
The public surface changes on purpose only.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from amplitude_cohorts_async.errors import MissingExtraError
from support.surface import describe, public_modules

PROMISED = Path(__file__).with_name("api.txt")
MODULES = public_modules()


@pytest.mark.parametrize("name", MODULES)
def test_surface_is_as_promised(name: str) -> None:
    """
    Every public name has the signature that is written down in api.txt.

    A wanted change is written down by tests/support/surface.py.
    """
    try:
        module = importlib.import_module(name)
    except MissingExtraError as error:
        pytest.skip(str(error))

    promises = PROMISED.read_text().split("\n\n")
    promised = {promise.partition("\n")[0]: promise.rstrip() for promise in promises}

    assert promised.get(name) == describe(module).rstrip()


@pytest.mark.parametrize("name", MODULES)
def test_names_exist_once(name: str) -> None:
    """
    `__all__` is a tuple of names that exist, each of them once.
    """
    try:
        module = importlib.import_module(name)
    except MissingExtraError as error:
        pytest.skip(str(error))

    assert isinstance(module.__all__, tuple)
    assert len(set(module.__all__)) == len(module.__all__)
    assert [] == [each for each in module.__all__ if not hasattr(module, each)]
