"""
What the package says of itself on an index, made of README.md when it is built.

README's links are relative, so that they work in any checkout. On an index they need
the address of the repository: `repository` in pyproject.toml. Until it is set, links of
the repository become plain text, its pictures are left out, and there are no URLs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatch_fancy_pypi_readme import hooks
from hatchling.metadata.plugin.interface import MetadataHookInterface

PICTURE = r"!\[([^\]]*)\]\((?!\w+:)([^)]+)\)"
LINK = r"(?<!!)\[([^\]]*)\]\((?!\w+:)([^)]+)\)"


class DescriptionHook(MetadataHookInterface):
    """Hatchling calls it for the fields that are `dynamic`."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the description, and the URLs of the project."""
        repository = str(self.config["repository"]).rstrip("/")
        pictures = rf"![\1]({repository}/raw/HEAD/\2)" if repository else ""
        links = rf"[\1]({repository}/blob/HEAD/\2)" if repository else r"\1"
        config = {
            "content-type": "text/markdown",
            "fragments": [{"path": str(Path(self.root, "README.md"))}],
            "substitutions": [
                {"pattern": PICTURE, "replacement": pictures},
                {"pattern": LINK, "replacement": links},
            ],
        }

        hooks.FancyReadmeMetadataHook(self.root, config).update(metadata)
        metadata["urls"] = urls(repository) if repository else {}


def urls(repository: str) -> dict[str, str]:
    """Return what an index lists beside the description."""
    return {
        "Repository": repository,
        "Documentation": f"{repository}/blob/HEAD/docs/index.md",
        "Changelog": f"{repository}/blob/HEAD/CHANGELOG.md",
    }
