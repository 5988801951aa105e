"""
What a client imports when it is entered, rather than in the middle of a call.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from importlib import import_module

_PARTS = (
    "_exports",
    "_io.slices",
    "_many",
    "_plan",
    "_sync",
    "_uploads",
    "_wiring",
)
"""
What only calls need; all else comes along.
"""


async def prepare() -> None:
    """
    Import what the calls will need, and generate the readers of answers.

    The first time in a process takes a tenth of a second, in which the loop is
    never kept for more than a few milliseconds. A caller that is cancelled does
    not wait for the end of it; the thread does nothing but import.
    """
    if not all(f"{__package__}.{part}" in sys.modules for part in _PARTS):
        # Not anyio's way: the first use of that imports its backend, on the loop.
        await asyncio.to_thread(_load)


def _load() -> None:
    with suppress(ImportError):  # where it keeps it is its own affair
        import_module("anyio._backends._asyncio")

    for part in _PARTS:
        import_module(f"{__package__}.{part}")

    # The extra's library, which takes a tenth of what aiohttp takes.
    import_module(f"{__package__}._io.fast.connections").aiofastnet()

    from ._core.converter import generate  # noqa: PLC0415 - as late as the rest

    generate()
