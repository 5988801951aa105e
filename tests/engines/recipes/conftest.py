"""The service that counts, and where a recipe works."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.engines.engine import Place
from support.engines.service import Service, running_service


@pytest.fixture
def service() -> Iterator[Service]:
    """The emulator in a process of its own."""
    with running_service() as service:
        yield service


@pytest.fixture
def place(tmp_path: Path, service: Service) -> Place:
    """A folder with an empty one for files, a job store and limits in files."""
    (tmp_path / "files").mkdir()
    environment = {
        **service.environment,
        "AMPLITUDE_JOBS": str(tmp_path / "exports.db"),
        "AMPLITUDE_LIMITER_URL": f"sqlite:///{tmp_path}/limits.db",
        "HOME": str(tmp_path),
    }
    return Place(folder=tmp_path, environment=environment)
