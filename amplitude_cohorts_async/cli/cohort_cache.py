"""Ids and names of a project's cohorts, for completion: a file of ours alone."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import cast

from platformdirs import user_cache_path

from .private_files import is_private, write_private

__all__ = ("MOST_AGE", "known_cohorts", "remember_cohorts")

MOST_AGE = 7 * 86_400.0
"""Seconds; older ones are not offered."""

_LARGEST = 1 << 24


def remember_cohorts(project_hash: str, names: Mapping[str, str]) -> None:
    """Keep the names of a project's cohorts by id; what cannot be kept is not."""
    document = {"at": time.time(), "cohorts": dict(names)}

    with suppress(OSError):
        write_private(_path(project_hash), json.dumps(document))


def known_cohorts(project_hash: str) -> Mapping[str, str]:
    """Return the names by id that were kept lately; none if the file is not ours."""
    try:
        with _path(project_hash).open("rb") as file:
            if not is_private(os.fstat(file.fileno())):
                return {}
            document = json.loads(file.read(_LARGEST))
        age = time.time() - float(document["at"])
        cohorts = cast("object", document["cohorts"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}

    if not (0 <= age < MOST_AGE and isinstance(cohorts, dict)):
        return {}

    return {
        str(key): str(name) for key, name in cast("dict[str, object]", cohorts).items()
    }


def _path(project_hash: str) -> Path:
    folder = user_cache_path("amplitude-cohorts", appauthor=False)

    return folder / f"cohorts-{project_hash}.json"
