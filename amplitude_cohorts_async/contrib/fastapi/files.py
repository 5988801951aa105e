"""The files of a router: served while they are kept, and deleted after that."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from http import HTTPStatus
from pathlib import Path

import attrs
from fastapi.responses import FileResponse

from .problems import ProblemError
from .records import ExportRoot
from .schemas import ExportState

__all__ = ("MEDIA_TYPES", "Files", "shown_name")

MEDIA_TYPES = {
    "csv": "text/csv; charset=utf-8",
    "csv.gz": "application/gzip",
    "parquet": "application/vnd.apache.parquet",
}

# Ours, and the parts of those that were never finished.
_OURS = re.compile(r"\.?[0-9a-f]{32}\.(csv|csv\.gz|parquet)(\..*)?")
_logger = logging.getLogger(__name__)

_UNUSUAL = re.compile(r"[^A-Za-z0-9_-]")


@attrs.frozen
class Files:
    """
    The files below a root, if that is a folder.

    Attributes:
        keep_files: Seconds until a file is deleted.
        utcnow: Returns the time; aware.
    """

    root: ExportRoot
    keep_files: float
    utcnow: Callable[[], datetime]

    async def find(self, state: ExportState) -> Path:
        """
        Return the file of an export.

        Raises:
            ProblemError: It is not there, and why.
        """
        folder = self.root.folder

        if state.state != "saved":
            raise ProblemError(HTTPStatus.CONFLICT, _no_file(state))
        if folder is None or not state.has_file:
            where = state.location or "in a file that this service does not serve"
            raise ProblemError(
                HTTPStatus.CONFLICT,
                f"the file of export {state.id} is not here: {where}",
            )

        path = folder / f"{state.id}.{state.format}"
        if await asyncio.to_thread(path.is_file):
            return path

        if self._is_old(state):
            raise ProblemError(
                HTTPStatus.GONE,
                f"the file of export {state.id} was deleted: files are kept for "
                f"{timedelta(seconds=self.keep_files)}",
            )
        raise ProblemError(
            HTTPStatus.CONFLICT,
            f"the file of export {state.id} is not in this worker's folder; all workers "
            f"have to share one, or somebody moved the file",
        )

    async def answer(self, state: ExportState) -> FileResponse:
        """
        Return the answer that sends the file of an export.

        Raises:
            ProblemError: It is not there, and why.
        """
        path = await self.find(state)

        return FileResponse(
            path,
            filename=shown_name(state),
            media_type=MEDIA_TYPES[str(state.format)],
        )

    async def sweep(self) -> None:
        """Delete the files that are too old; log which ones cannot be."""
        folder = self.root.folder

        if folder is None:
            return
        try:
            await asyncio.to_thread(self._sweep, folder)
        except OSError as error:
            _logger.warning("no look for old files in %s: %s", folder, error)

    def _sweep(self, folder: Path) -> None:
        oldest = time.time() - self.keep_files

        for path in folder.iterdir():
            if not _OURS.fullmatch(path.name):
                continue
            try:
                if path.stat().st_mtime < oldest:
                    path.unlink()
            except FileNotFoundError:  # another worker was faster
                continue
            except OSError as error:
                _logger.warning("an old file cannot be deleted: %s", error)

    def _is_old(self, state: ExportState) -> bool:
        if state.saved_at is None:
            return False

        age = self.utcnow() - state.saved_at
        return age.total_seconds() >= self.keep_files


def shown_name(state: ExportState) -> str:
    """Return a name for the browser's copy: a cohort's id may be any text."""
    return f"{_UNUSUAL.sub('_', state.cohort_id)[:64]}.{state.format}"


def _no_file(state: ExportState) -> str:
    if state.is_over:
        return f"export {state.id} has no file: it is {state.state}"

    return f"the file of export {state.id} is not there yet: it is {state.state}"
