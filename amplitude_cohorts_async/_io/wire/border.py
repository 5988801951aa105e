"""
Where foreign exceptions become ours.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeAlias

Border: TypeAlias = Callable[[], AbstractContextManager[None]]
"""
Makes a context in which whatever the network does wrong is translated.
"""
