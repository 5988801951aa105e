"""
The client without await, for scripts, shells and notebooks.

The same methods, which wait in the calling thread, while an event loop in a thread of
this process does the work:

    with CohortsClient.from_env() as client:
        client.export("26umsb5", "members.csv")

It works where an event loop runs already, as in a notebook, and keeps that waiting.
Ctrl-C cancels a call, waits for its end, and shows the token of an export in a note.
Iterables and callbacks of yours run in the thread that called. Objects that are async
themselves, a limiter, a job store or a destination, run in the loop; and so does a
`events.TracingHook`, in the context of the call: spans are inside of the caller's.
"""

from ._arguments import IdSource, OnSkipped
from ._generated import CohortsClient, ExportJob, diff_ids, export_cohort
from ._streams import ExportBatch, MemberStream

__all__ = (
    "CohortsClient",
    "ExportBatch",
    "ExportJob",
    "IdSource",
    "MemberStream",
    "OnSkipped",
    "diff_ids",
    "export_cohort",
)
