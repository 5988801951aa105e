"""What the stores that several processes share have in common."""

from __future__ import annotations

import random


class StoreFailedError(Exception):
    """A store did not answer, or not in time; its cause says why."""


def random_delay(least: float, most: float) -> float:
    """Return a random number of seconds, so that processes do not poll in step."""
    return random.uniform(least, most)  # noqa: S311  no secret depends on it


def shown_store(name: str, port: object = None) -> str:
    """Return how messages name a store."""
    return f"the store at {name}:{port}" if port else f"the store {name}"
