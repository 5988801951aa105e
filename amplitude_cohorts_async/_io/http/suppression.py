"""
Keeps the instrumentation of OpenTelemetry off the requests to the object store.

A generic instrumentation of aiohttp makes a span of each request of the process. One
for the store would hold a presigned link, which is as good as a password for a minute.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager

_MODULE = "opentelemetry.context"
_PLAIN_KEY = "suppress_instrumentation"
# The newer name has a random part, and so it can only be looked up.
_KEY_NAME = "_SUPPRESS_INSTRUMENTATION_KEY"


@contextmanager
def not_instrumented() -> Generator[None]:
    """
    Suppress instrumentation in this context; what is begun in it makes no spans.

    Without OpenTelemetry in this process nothing is imported.
    """
    if sys.modules.get(_MODULE) is None:
        yield
        return

    from opentelemetry import context as contexts  # noqa: PLC0415 - only if it is here

    suppressed = contexts.set_value(_PLAIN_KEY, True)
    key = getattr(contexts, _KEY_NAME, _PLAIN_KEY)
    token = contexts.attach(contexts.set_value(key, True, suppressed))

    try:
        yield
    finally:
        contexts.detach(token)
