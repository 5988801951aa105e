"""A plain HTTP client for the emulator: nothing of ours in between."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import attrs
from yarl import URL

from amplitude_cohorts_async.testing import CohortsEmulator


@attrs.frozen
class Reply:
    """One answer, read to its end; gzip is left as it is."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, as JSON."""
        return json.loads(self.body)

    @property
    def details(self) -> str:
        """The text of the vendor's error envelope."""
        return str(self.json["error"]["metadata"]["details"])


class Caller:
    """Sends requests to one emulator, with its credentials."""

    def __init__(
        self, emulator: CohortsEmulator, session: aiohttp.ClientSession
    ) -> None:
        self._emulator = emulator
        self._session = session
        self.auth = basic(emulator.api_key, emulator.secret_key)

    async def send(
        self, method: str, url: str, *, headers: Mapping[str, str], body: Any = None
    ) -> Reply:
        """Send exactly these bytes as the target."""
        async with self._session.request(
            method,
            URL(url, encoded=True),
            headers=headers,
            data=body,
            allow_redirects=False,
        ) as response:
            return Reply(response.status, response.headers, await response.read())

    async def get(self, path: str, *, auth: str | None = None) -> Reply:
        """Get something of the API."""
        headers = {"Authorization": auth or self.auth, "Accept-Encoding": "gzip"}

        return await self.send("GET", self._emulator.base_url + path, headers=headers)

    async def post(self, path: str, value: object) -> Reply:
        """Post JSON to the API."""
        headers = {"Authorization": self.auth, "Content-Type": "application/json"}

        return await self.send(
            "POST",
            self._emulator.base_url + path,
            headers=headers,
            body=io.BytesIO(json.dumps(value).encode()),
        )

    async def export(self, cohort_id: str, query: str = "") -> str:
        """Ask for an export that is granted, and let it be done."""
        reply = await self.get(f"/api/5/cohorts/request/{cohort_id}{query}")
        assert 202 == reply.status, reply
        await self._emulator.clock.sleep(self._emulator.options.job_seconds)

        return str(reply.json["request_id"])

    async def file(self, request_id: str) -> Reply:
        """Ask for the file of a job."""
        return await self.get(f"/api/5/cohorts/request/{request_id}/file")

    async def link(self, cohort_id: str) -> str:
        """Export a cohort, and return the link to its file."""
        reply = await self.file(await self.export(cohort_id))
        assert 302 == reply.status, reply

        return reply.headers["Location"]

    async def raw(self, url: str) -> bytes:
        """
        Get something over a connection of its own, and return all that comes.

        aiohttp repeats a GET whose answer is lost, and tells nobody.
        """
        parts = URL(url, encoded=True)
        reader, writer = await asyncio.open_connection(parts.host, parts.port)
        lines = [
            f"GET {parts.raw_path_qs} HTTP/1.1",
            "Host: emulator",
            *([] if "X-Amz" in url else [f"Authorization: {self.auth}"]),
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode())

        try:
            return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()

    async def fetch(self, link: str, method: str = "GET", **headers: str) -> Reply:
        """Get something of the store; underscores in names stand for dashes."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}

        return await self.send(method, link, headers=named)


def basic(key: str, secret: str) -> str:
    """Return the header for these credentials."""
    return "Basic " + base64.b64encode(f"{key}:{secret}".encode()).decode()


@asynccontextmanager
async def calling(emulator: CohortsEmulator) -> AsyncIterator[Caller]:
    """Connect to an emulator."""
    async with aiohttp.ClientSession(
        auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        yield Caller(emulator, session)
