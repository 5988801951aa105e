"""
Who may see the page: who has the token, from this page, under this name.

Any site that a browser has open may send requests to this machine. So each request has
to name one of our hosts (or a name of theirs could point here), a change has to come
from our own page, and all but the sign-in needs the cookie, which no other site is sent.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, MutableMapping
from hashlib import sha256
from http import HTTPStatus

import attrs
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ("Access", "Guard")

_SAFE = {"GET", "HEAD", "OPTIONS"}
_OPEN = ("/static/", "/session")
_LONGEST_SIGN_IN = 4096

# Pico's icons are images within its own style sheet.
_POLICY = (
    "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'; object-src 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    # Not "no-referrer": with it Firefox says "Origin: null" for the page's own changes.
    # Other sites get no Referer, and none has the token, which is in the fragment.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@attrs.frozen(kw_only=True)
class Access:
    """
    What a request has to show.

    Attributes:
        token: Of who may sign in.
        origins: Of the page, as in "http://127.0.0.1:8321"; their hosts are the only
            ones that are answered.
    """

    token: str = attrs.field(repr=False)
    origins: frozenset[str]

    @property
    def hosts(self) -> set[str]:
        """What the header ``Host`` may say."""
        return {origin.partition("://")[2] for origin in self.origins}

    @property
    def is_secure(self) -> bool:
        """Whether browsers reach the page by https alone."""
        return all(origin.startswith("https://") for origin in self.origins)

    @property
    def cookie(self) -> str:
        """The name of the cookie: pages on other ports of a host have others."""
        return f"cohorts_session_{self._digest('cookie')[:8]}"

    @property
    def session(self) -> str:
        """The value of the cookie: the same after a restart with the same token."""
        return self._digest("session")

    def is_token(self, text: str) -> bool:
        """Whether somebody knows the token."""
        return hmac.compare_digest(text.encode(), self.token.encode())

    def is_signed_in(self, headers: Headers) -> bool:
        """Whether a request has the cookie."""
        # As browsers write them: other programs' cookies may hold anything.
        given = cookie_parser(headers.get("cookie", "")).get(self.cookie, "")
        return hmac.compare_digest(given.encode(), self.session.encode())

    def is_ours(self, headers: Headers) -> bool:
        """Whether a request that changes something comes from our page."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")

        if origin is None and site is None:
            return False

        return (origin is None or origin in self.origins) and site in {
            *(None, "same-origin")
        }

    def refusal(self, method: str, path: str, headers: Headers) -> str | HTTPStatus:
        """Return why a request is refused, or OK."""
        if headers.get("host", "") not in self.hosts:
            return "this address is not one of those that the page was started for"
        if method not in _SAFE and not self.is_ours(headers):
            return "this request does not come from the page"
        if method not in _SAFE and path == "/session" and not _is_short(headers):
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        if path == "/" or path.startswith(_OPEN) or self.is_signed_in(headers):
            return HTTPStatus.OK

        return HTTPStatus.UNAUTHORIZED

    def _digest(self, purpose: str) -> str:
        return hmac.new(self.token.encode(), purpose.encode(), sha256).hexdigest()


class Guard:
    """Refuses what `Access` does not admit, and adds headers to each answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            """Add the headers to the beginning of an answer."""
            if message["type"] == "http.response.start":
                _add_headers(message)
            await send(message)

        headers = Headers(scope=scope)
        refusal = self._access.refusal(scope["method"], scope["path"], headers)

        match refusal:
            case HTTPStatus.OK:
                await self._app(scope, receive, guarded)
            case HTTPStatus.UNAUTHORIZED:
                answer = PlainTextResponse("sign in first", HTTPStatus.UNAUTHORIZED)
                await answer(scope, receive, guarded)
            case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                text = (
                    f"a sign-in is {_LONGEST_SIGN_IN} bytes or less, of a known length"
                )
                answer = PlainTextResponse(text, refusal)
                await answer(scope, receive, guarded)
            case _:
                answer = PlainTextResponse(str(refusal), HTTPStatus.FORBIDDEN)
                await answer(scope, receive, guarded)


def origins_of(scheme: str, names: Iterable[str], port: int) -> frozenset[str]:
    """Return the origins of some host names."""
    default = {"http": 80, "https": 443}[scheme]
    suffix = "" if port == default else f":{port}"

    return frozenset(f"{scheme}://{name}{suffix}" for name in names)


def _is_short(headers: Headers) -> bool:
    """Whether a body says that it is short; one in chunks says nothing."""
    length = headers.get("content-length", "")

    return (
        "transfer-encoding" not in headers
        and length.isdecimal()
        and int(length) <= _LONGEST_SIGN_IN
    )


def _add_headers(message: MutableMapping[str, object]) -> None:
    headers = MutableHeaders(scope=message)

    for name, value in _HEADERS.items():
        headers[name] = value
