"""What `doctor` looks at on this machine, without asking the service."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import gettempdir
from typing import Final, Literal, TypeAlias
from urllib.request import getproxies_environment

import attrs
from rich.filesize import decimal

from ... import __version__
from ..command_words import in_command_words
from ..exits import Exit, exit_of
from ..private_files import is_closed
from ..stores import store_file

__all__ = ("Check", "State", "failed", "of_machine")

State: TypeAlias = Literal["ok", "warning", "failed", "unknown"]

_LEAST_FREE = 1_000_000_000
"""Bytes; a file of two million members with properties is a few hundred million."""

EXTRAS: Final[Mapping[str, Sequence[str]]] = {
    "airflow": ("apache-airflow",),
    "cloud": ("obstore",),
    "dagster": ("dagster",),
    "dbos": ("dbos", "psycopg", "psycopg-pool"),
    "otel": ("opentelemetry-api",),
    "parquet": ("pyarrow",),
    "postgres": ("psycopg", "psycopg-pool"),
    "procrastinate": ("procrastinate", "psycopg", "psycopg-pool"),
    "progress": ("tqdm",),
    "redis": ("redis",),
    "speed": ("aiofastnet", "isal"),
    "web": ("fastapi", "jinja2", "python-multipart", "uvicorn"),
}
"""The distributions that each extra brings; the command runs, so it has its own."""


@attrs.frozen
class Check:
    """
    What was found out about one thing.

    Attributes:
        code: The exit code that it stands for.
    """

    name: str
    state: State
    text: str
    code: Exit = attrs.field(default=Exit.OK)


def failed(name: str, error: BaseException) -> Check:
    """Return a check that an error ended."""
    return Check(name, "failed", in_command_words(error), exit_of(error))


def of_machine(jobs: str | None, *, no_jobs: bool, proxy: str | None) -> list[Check]:
    """
    Return what can be seen here: versions, extras, proxy, disk and store file.

    Args:
        jobs: The option, as *no_jobs* and *proxy*.
    """
    return [_versions(), _extras(), _proxy(proxy), *_disk(), _job_store(jobs, no_jobs)]


def _versions() -> Check:
    packages = ", ".join(f"{name} {_version(name)}" for name in ("aiohttp", "typer"))

    return Check(
        "versions",
        "ok",
        f"amplitude-cohorts {__version__}, Python {platform.python_version()}, "
        f"{packages}, {platform.system()} {platform.machine()}",
    )


def _extras() -> Check:
    has = {extra: all(map(_version, names)) for extra, names in EXTRAS.items()}
    there = [extra for extra, found in has.items() if found]
    missing = [extra for extra, found in has.items() if not found]
    absent = f"; not installed: {', '.join(missing)}" if missing else ""

    return Check("extras", "ok", f"installed: {', '.join(there) or 'none'}{absent}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _proxy(proxy: str | None) -> Check:
    known = sorted(
        f"{name.upper()}_PROXY"
        for name in getproxies_environment()
        if name in {"http", "https", "all"}
    )

    if proxy is None and known:
        return Check(
            "proxy",
            "warning",
            f"none is used, though {', '.join(known)} is set: pass --proxy env if the "
            f"network needs it",
        )

    if proxy == "env":
        return Check(
            "proxy", "ok", f"by {', '.join(known) or 'no variable: none is set'}"
        )

    return Check("proxy", "ok", "none" if proxy is None else "by --proxy")


def _disk() -> Iterator[Check]:
    # The part of a download is beside its target; ids are compared in the temporary one.
    for name, folder in (("disk", Path.cwd()), ("temporary", Path(gettempdir()))):
        try:
            free = shutil.disk_usage(folder).free
        except OSError as error:
            yield failed(name, error)
            continue

        if not os.access(folder, os.W_OK):
            yield Check(name, "warning", f"{folder} cannot be written to")
        elif free < _LEAST_FREE:
            yield Check(
                name,
                "warning",
                f"only {decimal(free)} free in {folder}: an export of many members may "
                f"not fit",
            )
        else:
            yield Check(name, "ok", f"{decimal(free)} free in {folder}")


def _job_store(jobs: str | None, no_jobs: bool) -> Check:
    if no_jobs:
        return Check(
            "job store", "warning", "--no-jobs: exports are recorded in memory only"
        )

    if (path := store_file(jobs)) is None:
        return Check("job store", "ok", "kept by a server, or beside the limiter")

    if not path.exists():
        return _new_job_store(path)

    if not os.access(path, os.R_OK | os.W_OK):
        return Check(
            "job store", "failed", f"{path} cannot be read and written", Exit.FAILURE
        )

    if not is_closed(path.stat()):
        return Check(
            "job store",
            "warning",
            f"{path} is open to other users; run `chmod 600` on it",
        )

    return Check("job store", "ok", f"{path}, {decimal(path.stat().st_size)}")


def _new_job_store(path: Path) -> Check:
    folder = next(each for each in path.absolute().parents if each.exists())

    if not os.access(folder, os.W_OK):
        return Check(
            "job store",
            "failed",
            f"{path} cannot be made, because {folder} cannot be written to: exports "
            f"would be refused; name another file with --jobs",
            Exit.FAILURE,
        )

    return Check("job store", "ok", f"{path} will be made by the first export")
