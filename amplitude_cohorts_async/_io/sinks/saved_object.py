"""A saved object of a destination: what is known of it without reading it."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class SavedObject:
    """
    An object, with the digest and members that were counted on its way.

    Attributes:
        tag: The store's tag of the object, by which a change shows; None without one.
    """

    size: int
    sha256: str
    rows: int | None
    tag: str | None
    mtime_ns: int = -1

    def known(self) -> dict[str, object]:
        """Return what is known without reading the object."""
        return {"sha256": self.sha256, "rows": self.rows, "tag": self.tag}

    async def digest(self) -> str:
        """See `SavedExport`."""
        return self.sha256

    def is_intact(self) -> bool:
        """Return False: only its store can tell, over the network."""
        return False
