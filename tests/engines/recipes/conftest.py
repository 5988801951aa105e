"""Where a recipe works."""

from __future__ import annotations

import pytest

from support.engines.engine import Workspace


@pytest.fixture
def workspace(workspace: Workspace) -> Workspace:
    """A folder with an empty one for files."""
    (workspace.folder / "files").mkdir()
    return workspace
