"""Ids as callers pass them; the one public type that names the operating system's."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Iterable
from typing import TypeAlias

IdSource: TypeAlias = Iterable[str | int] | AsyncIterable[str | int] | os.PathLike[str]
"""An iterable of ids, or the path of a file with one id a line."""
