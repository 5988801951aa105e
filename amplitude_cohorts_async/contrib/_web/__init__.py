"""
The page of `amplitude-cohorts serve`: exports of one project in a browser.

It is built on the FastAPI kit. `access` says who may see it, `app` has its routes,
`cards` is what it shows of an export, `downloads` of a file that comes, which `hook`
learns from the client; `received` takes a file, `writes` uploads and syncs it.
"""

from ...errors import MissingExtraError

try:
    import fastapi as _fastapi
    import jinja2 as _jinja2
    import python_multipart as _multipart
    import uvicorn as _uvicorn
except ModuleNotFoundError as _error:
    raise MissingExtraError("the page for exports", extra="web") from _error

from .access import Access
from .app import About, make_app
from .hook import on_event

del _fastapi, _jinja2, _multipart, _uvicorn

__all__ = ("About", "Access", "make_app", "on_event")
