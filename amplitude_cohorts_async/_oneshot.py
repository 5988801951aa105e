"""
All of it in one call.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from ._client import CohortsClient
from .models import SavedExport


async def export_cohort(
    cohort_id: str,
    to: str | os.PathLike[str],
    *,
    properties: bool | Sequence[str] = False,
    timeout: float = 1800.0,
    format: str | None = None,  # noqa: A002 - the word users know
) -> SavedExport:
    """
    Export a cohort to a file, with keys from the environment.

    See `CohortsClient.export()` and `CohortsClient.from_env()`.
    """
    async with CohortsClient.from_env() as client:
        return await client.export(
            cohort_id, to, properties=properties, timeout=timeout, format=format
        )
