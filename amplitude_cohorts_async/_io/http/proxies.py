"""Which proxy a request goes through: one for all, or the environment's."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment

import attrs
from yarl import URL

from ..._core.secret import Secret

__all__ = ("FROM_ENVIRONMENT", "Proxies", "ProxyParts")

FROM_ENVIRONMENT: Final = "env"

_SCHEMES = ("http", "https", "all")

ProxyParts: TypeAlias = tuple[URL | None, Mapping[str, Secret]]
"""A proxy without its password, and the header that has it."""


@attrs.frozen
class Proxies:
    """
    The proxies of a client.

    Attributes:
        by_scheme: Of the addresses that are asked for; "all" for any other.
        no_proxy: Hosts that are asked without one, as NO_PROXY has them.
    """

    by_scheme: Mapping[str, str] = attrs.field(factory=dict[str, str], repr=False)
    no_proxy: str = ""

    @classmethod
    def of_environment(cls) -> Proxies:
        """Return those of HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY."""
        found = getproxies_environment()
        by_scheme = {
            # As curl takes them, the scheme may be left out.
            name: Secret(
                found[name] if "://" in found[name] else f"http://{found[name]}"
            )
            for name in _SCHEMES
            if found.get(name)
        }

        return cls(by_scheme, found.get("no", ""))

    def of(self, url: str) -> ProxyParts:
        """Return the proxy for an address."""
        parts = urlsplit(url)
        proxy = self.by_scheme.get(parts.scheme) or self.by_scheme.get("all")

        if proxy is None or self._is_exempt(parts.hostname or "", parts.port):
            return None, {}

        return _parts(proxy)

    def _is_exempt(self, host: str, port: int | None) -> bool:
        names = [
            name.strip().lower().removeprefix(".") for name in self.no_proxy.split(",")
        ]

        return any(
            name == "*" or f".{place}".endswith(f".{name}")
            for name in names
            if name
            # A name may be of one port only.
            for place in (host, f"{host}:{port}")
        )

    @property
    def secrets(self) -> Sequence[str]:
        """Each form of their passwords, for the redactor."""
        return [text for proxy in self.by_scheme.values() for text in _secrets(proxy)]


def _parts(proxy: str) -> ProxyParts:
    # aiohttp would keep the password in a URL, and show it.
    url = URL(proxy)

    if url.user is None and url.password is None:
        return url, {}

    pair = base64.b64encode(f"{url.user or ''}:{url.password or ''}".encode()).decode()

    return url.with_user(None), {"Proxy-Authorization": Secret(f"Basic {pair}")}


def _secrets(proxy: str) -> Sequence[str]:
    parts = urlsplit(proxy)

    if not parts.password:
        return ()

    password = unquote(parts.password)
    pair = f"{unquote(parts.username or '')}:{password}"

    return parts.password, password, pair, base64.b64encode(pair.encode()).decode()
