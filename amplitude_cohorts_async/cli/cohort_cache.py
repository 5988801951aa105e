"""Ids and names of a project's cohorts, for completion: a file of ours alone."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import cast

from platformdirs import user_cache_path

__all__ = ("MOST_AGE", "known_cohorts", "remember_cohorts")

MOST_AGE = 7 * 86_400.0
"""Seconds; older ones are not offered."""

_LARGEST = 1 << 24
_OF_OTHERS = 0o077


def remember_cohorts(project_hash: str, names: Mapping[str, str]) -> None:
    """Keep the names of a project's cohorts by id; what cannot be kept is not."""
    path = _path(project_hash)

    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # mkstemp makes it with mode 0600.
        number, name = tempfile.mkstemp(dir=path.parent, prefix=".cohorts-")
        try:
            with open(number, "w", encoding="utf-8") as file:  # noqa: PTH123
                json.dump({"at": time.time(), "cohorts": dict(names)}, file)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def known_cohorts(project_hash: str) -> Mapping[str, str]:
    """Return the names by id that were kept lately; none if the file is not ours."""
    try:
        with _path(project_hash).open("rb") as file:
            if not _is_ours(os.fstat(file.fileno())):
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


def _is_ours(facts: os.stat_result) -> bool:
    if not hasattr(os, "geteuid"):  # Windows: the folder is the user's own
        return True

    return facts.st_uid == os.geteuid() and not facts.st_mode & _OF_OTHERS


def _path(project_hash: str) -> Path:
    folder = user_cache_path("amplitude-cohorts", appauthor=False)

    return folder / f"cohorts-{project_hash}.json"
