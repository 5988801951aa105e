"""The programs of `examples/engines`, as the tests import them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from unittest.mock import patch

from ..processes import TESTS

FOLDER = TESTS.parent / "examples" / "engines"


def recipe(name: str, environment: Mapping[str, str] | None = None) -> ModuleType:
    """Import one anew, as a process that is started in its folder does."""
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))

    sys.modules.pop(name, None)
    with patch.dict(os.environ, environment or {}):
        return import_module(name)
