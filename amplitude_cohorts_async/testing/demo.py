"""An emulator to look at: a few cohorts, and a function that runs it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .emulator import CohortsEmulator
from .faults import cut_off, link_expired, works

__all__ = (
    "DEMO_COHORT",
    "DEMO_GROUPS",
    "DEMO_SMALL",
    "add_demo_cohorts",
    "queue_mishaps",
    "serve",
)

DEMO_COHORT = "demo2m01"
DEMO_SMALL = "26umsb5"
DEMO_GROUPS = "demogrp1"

_PROPERTIES = {
    "plan": ("free", "team", "growth"),
    "country": ("Norway", "Korea, Republic of", "Peru", "Côte d'Ivoire"),
}


def add_demo_cohorts(emulator: CohortsEmulator, *, size: int = 2_000_000) -> None:
    """Add cohorts worth looking at; the largest, `DEMO_COHORT`, has *size* users."""
    emulator.add_cohort(
        DEMO_COHORT,
        size=size,
        properties=_PROPERTIES,
        name="Everybody who ever signed up",
        description=f"{size:,} users, every tenth anonymous",
    )
    emulator.add_cohort(
        DEMO_SMALL,
        members=[
            ("356896327775", "ann", {"plan": "team", "country": "Norway"}),
            ("356896327776", "bob", {"plan": "free", "country": "Peru"}),
            ("356896327777", None, {"plan": "free"}),
        ],
        name="Spring buyers",
    )
    emulator.add_cohort(
        "9apg8e8f", size=25_000, properties=_PROPERTIES, name="Active last week"
    )
    emulator.add_cohort(
        DEMO_GROUPS,
        members=["Acme", "Globex", "Initech"],
        group="company",
        name="Companies in trial",
    )


def queue_mishaps(emulator: CohortsEmulator, *, cut_at: int = 8_000_000) -> None:
    """
    Queue two faults that real downloads meet, too, for the next download.

    Its first link is expired, and its second connection is cut after *cut_at*
    bytes.
    """
    emulator.fail_next("file", link_expired())
    emulator.fail_next("store", works(), cut_off(at=cut_at))


async def serve(
    emulator: CohortsEmulator, *, announce: Callable[[CohortsEmulator], None]
) -> None:
    """
    Run an emulator until cancelled.

    Args:
        announce: Called once, when it listens and the files of its generated
            cohorts are there.
    """
    async with emulator:
        await asyncio.to_thread(emulator.generate)
        announce(emulator)
        await asyncio.Event().wait()
