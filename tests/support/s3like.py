"""
A filter in front of Swift: two things that Amazon S3 does and Swift does not.

It refuses an Authorization header beside a query signature, as S3 does, and it
writes down the head of each request, so that a test can see what arrived.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

TWO_CREDENTIALS = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>InvalidArgument</Code><Message>Only one auth mechanism allowed; only the \
X-Amz-Algorithm query parameter, Signature query string parameter or the Authorization \
header should be specified</Message><ArgumentName>Authorization</ArgumentName></Error>"""


def filter_factory(
    _: dict[str, str], *, journal: str, **__: str
) -> Callable[[App], App]:
    """
    Make the filter; paste hands over the options of its section.

    Args:
        journal: The file that gets one JSON object for each request.
    """

    def wrap(app: App) -> App:
        def guard(
            environ: dict[str, Any], start: Callable[..., Any]
        ) -> Iterable[bytes]:
            _note(Path(journal), environ)
            query = parse_qs(environ.get("QUERY_STRING", ""))

            if environ.get("HTTP_AUTHORIZATION") and "X-Amz-Algorithm" in query:
                length = str(len(TWO_CREDENTIALS))
                headers = [
                    ("Content-Type", "application/xml"),
                    ("Content-Length", length),
                ]
                start("400 Bad Request", headers)
                return [TWO_CREDENTIALS]

            return app(environ, start)

        return guard

    return wrap


def _note(journal: Path, environ: dict[str, Any]) -> None:
    headers = {
        name.removeprefix("HTTP_").replace("_", "-").lower(): value
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }
    record = {
        "method": environ["REQUEST_METHOD"],
        "path": environ["PATH_INFO"],
        "query": environ.get("QUERY_STRING", ""),
        "headers": headers,
    }
    with journal.open("a") as lines:
        lines.write(json.dumps(record) + "\n")
