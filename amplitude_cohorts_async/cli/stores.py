"""Where the command keeps what was spent, and the limits: in the user's data folder."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import typer
from platformdirs import user_data_path

from ..jobs import JobStore, MemoryJobStore
from ..limiters import SqliteLimiter
from ..limits import DOCUMENTED, Limits
from .exits import NoSuchJobError

__all__ = (
    "chosen_job_store",
    "has_job_store",
    "machine_limiter",
    "store_file",
    "uploads_folder",
)

_EXPORTS = "exports.db"


def chosen_job_store(jobs: str | None, *, no_jobs: bool) -> JobStore | str | None:
    """
    Return where exports are recorded; None leaves it to the environment.

    Args:
        jobs: The option; it overrides the environment.
    """
    if no_jobs:
        if jobs is not None:
            raise typer.BadParameter("pass either --jobs or --no-jobs")
        return MemoryJobStore()

    if jobs is not None:
        return _checked(jobs)

    if os.environ.get("AMPLITUDE_JOBS") or _is_shared():
        return None

    return str(_folder() / _EXPORTS)


def has_job_store(jobs: str | None) -> bool:
    """
    Whether there is a job store to look into; nothing is made.

    Raises:
        NoSuchJobError: There is none, where one was named.
    """
    named = jobs or os.environ.get("AMPLITUDE_JOBS")

    if not named:
        return _is_shared() or (_data_path() / _EXPORTS).exists()

    if "://" not in named and not Path(named).exists():
        # The text of a variable may be a URL that is not complete, with a password.
        what = jobs or "the file in AMPLITUDE_JOBS"
        raise NoSuchJobError(f"{what} does not exist: nothing was recorded there")

    return True


def store_file(jobs: str | None) -> Path | None:
    """Return the file in which exports are recorded; None if a server has them."""
    named = jobs or os.environ.get("AMPLITUDE_JOBS")

    if not named:
        return None if _is_shared() else _data_path() / _EXPORTS

    return None if "://" in named else Path(named)


def uploads_folder() -> Path:
    """Return a folder for files of ids, where the exports are in a bucket."""
    return _data_path() / "uploads"


def machine_limiter(limits: Limits = DOCUMENTED) -> SqliteLimiter | None:
    """
    Return the limiter of all commands of this user, or None.

    There is none if the environment names another one, or the data folder cannot be
    used: limits are then kept within the process.
    """
    if os.environ.get("AMPLITUDE_LIMITER_URL"):
        return None

    folder = _folder()

    if not os.access(folder, os.W_OK):
        return None

    return SqliteLimiter(folder / "limits.db", limits=limits)


def _checked(jobs: str) -> str:
    with suppress(ValueError):
        if "://" in jobs and urlsplit(jobs).password is not None:
            raise typer.BadParameter(
                "other users can read a password among the arguments; set AMPLITUDE_JOBS"
            )

    return jobs


def _is_shared() -> bool:
    # A limiter that processes share has a store that they share, too.
    return bool(os.environ.get("AMPLITUDE_LIMITER_URL"))


def _data_path() -> Path:
    return user_data_path("amplitude-cohorts", appauthor=False)


def _folder() -> Path:
    folder = _data_path()

    # If it cannot be made, the store says so before anything is spent.
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    return folder
