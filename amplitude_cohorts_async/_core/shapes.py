"""
What a value out of a JSON document is, to those who hope for a certain shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast


def mapping_of(value: object) -> Mapping[str, object]:
    """
    Return an object as it is, and an empty one for anything else.
    """
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def list_of(value: object) -> list[object]:
    """
    Return an array as it is, and an empty one for anything else.
    """
    return cast("list[object]", value) if isinstance(value, list) else []


def strings_of(value: object) -> list[str]:
    """
    Return an array's items as text, and nothing for anything else.
    """
    return [str(item) for item in list_of(value)]
