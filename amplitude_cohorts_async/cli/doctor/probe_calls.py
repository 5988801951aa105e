"""Requests of `doctor --probe` that the client has no method for: answers as they come."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from typing import cast
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import aiohttp
import attrs
from yarl import URL

from ...errors import ConnectionFailedError

__all__ = ("Seen", "Wire")

_SECONDS = 60.0
_MOST_BODY = 1 << 20
_NAME = re.compile(r"[a-z0-9_-]{1,40}")
_WORDS = re.compile(r"[A-Za-z][A-Za-z _-]{0,39}")


@attrs.frozen(kw_only=True)
class Seen:
    """
    An answer, of which only what names nobody may be reported.

    Attributes:
        link: Where it redirects to; never reported.
        etag: Never reported, only compared.
    """

    status: int
    content_type: str
    encoding: str
    header_names: str
    body: bytes = attrs.field(repr=False)
    link: str | None = attrs.field(repr=False)
    etag: str | None = attrs.field(repr=False)

    @property
    def document(self) -> Mapping[str, object]:
        """The object that the body is; empty if it is none."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}

        return cast("dict[str, object]", found) if isinstance(found, dict) else {}

    @property
    def keys(self) -> str:
        """The names of the fields of its object."""
        return ", ".join(sorted(map(reported_name, self.document))) or "none"

    @property
    def word(self) -> str:
        """The word of a job's status, if it is made of letters."""
        text = str(self.document.get("async_status", ""))

        return text if _WORDS.fullmatch(text) else "no word" if not text else "another"


def reported_name(name: str) -> str:
    """Return a field's or header's name, unless it might be an id."""
    is_plain = (
        _NAME.fullmatch(name.lower()) and sum(map(str.isdigit, name)) < len(name) / 3
    )

    return name if is_plain else "(another)"


@attrs.frozen(kw_only=True)
class Wire:
    """
    Where the requests go, and with which keys.

    Attributes:
        proxy: The URL of an HTTP proxy; "env" for the environment's, None for none.
    """

    origin: str
    api_key: str = attrs.field(repr=False)
    secret_key: str = attrs.field(repr=False)
    proxy: str | None = attrs.field(default=None, repr=False)

    async def get(self, path: str) -> Seen:
        """Ask for a path of the API."""
        return await self._send("GET", f"{self.origin}{path}", None)

    async def post(self, path: str, document: Mapping[str, object]) -> Seen:
        """Send an object to a path of the API."""
        return await self._send("POST", f"{self.origin}{path}", document)

    async def fetch(self, link: str) -> Seen:
        """Follow a link into the store, without keys."""
        return await self._send("GET", link, None, is_ours=False)

    def _proxy_for(self, url: str) -> str | None:
        if self.proxy != "env":
            return self.proxy

        parts, proxies = urlsplit(url), getproxies_environment()
        found = proxies.get(parts.scheme) or proxies.get("all")

        if not found or proxy_bypass(parts.netloc):
            return None

        # As curl takes them, the scheme may be left out.
        return found if "://" in found else f"http://{found}"

    async def _send(
        self,
        method: str,
        url: str,
        document: Mapping[str, object] | None,
        *,
        is_ours: bool = True,
    ) -> Seen:
        headers = {"Accept-Encoding": "identity"}

        if is_ours:
            pair = b64encode(f"{self.api_key}:{self.secret_key}".encode()).decode()
            headers["Authorization"] = f"Basic {pair}"

        try:
            async with (
                aiohttp.ClientSession(
                    timeout=aiohttp.ClientTimeout(total=_SECONDS),
                    cookie_jar=aiohttp.DummyCookieJar(),
                ) as session,
                session.request(
                    method,
                    URL(url, encoded=True),
                    headers=headers,
                    json=document,
                    allow_redirects=False,
                    proxy=self._proxy_for(url),
                    auto_decompress=False,
                ) as response,
            ):
                body = await response.content.read(_MOST_BODY)
                names = {name.lower() for name in response.headers}
                return Seen(
                    status=response.status,
                    content_type=response.content_type,
                    encoding=response.headers.get("Content-Encoding", "none"),
                    header_names=", ".join(sorted(map(reported_name, names))),
                    body=body,
                    link=response.headers.get("Location"),
                    etag=response.headers.get("ETag"),
                )
        except (aiohttp.ClientError, TimeoutError) as error:
            # Without its text, which may quote a link.
            raise ConnectionFailedError(
                f"a request of the probe got no answer ({type(error).__name__})",
                may_have_happened=True,
            ) from None
