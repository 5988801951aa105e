"""
A file that arrived and is not what it claims to be.
"""

from __future__ import annotations


class Malformed(ValueError):  # noqa: N818 - users see MalformedFileError
    """
    Says what is wrong with a file; nobody here knows which job it is of.
    """
