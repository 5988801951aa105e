"""What a test needs besides the group `tests`, and what happens without it."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest


def require(package: str) -> None:
    """Skip the test or the module without a package; fail where CI is set."""
    if find_spec(package) is not None:
        return

    reason = f"the package {package} is not installed"

    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)

    pytest.skip(reason, allow_module_level=True)
