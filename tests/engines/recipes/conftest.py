"""Where a recipe works."""

from __future__ import annotations

import pytest

from support.engines.engine import Place


@pytest.fixture
def place(place: Place) -> Place:
    """A folder with an empty one for files."""
    (place.folder / "files").mkdir()
    return place
