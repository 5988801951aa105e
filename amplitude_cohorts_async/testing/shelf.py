"""
The objects in the store, each made once.
"""

from __future__ import annotations

import asyncio

from .csvfiles import StoredObject
from .jobs import Job, build_object
from .options import Options

__all__ = ("Shelf",)


class Shelf:
    """
    Makes the files of jobs, in threads, and keeps them.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._objects: dict[tuple[str, int, bool], asyncio.Future[StoredObject]] = {}

    async def get(self, job: Job, *, compress: bool) -> StoredObject:
        """
        Return the object of a job, as its faults have left it.
        """
        key = (job.request_id, len(job.edits) + len(job.stored_edits), compress)

        if key not in self._objects:
            self._objects[key] = asyncio.ensure_future(self._build(job, compress))

        # Shielded: others may be waiting for the same file.
        return await asyncio.shield(self._objects[key])

    async def aclose(self) -> None:
        """
        Wait for no file any more.
        """
        objects, self._objects = list(self._objects.values()), {}

        for future in objects:
            future.cancel()

        await asyncio.gather(*objects, return_exceptions=True)

    async def _build(self, job: Job, compress: bool) -> StoredObject:
        return await asyncio.to_thread(
            build_object, job, compress=compress, cache_dir=self._options.cache_dir
        )
