"""
Answers as the service does, over TLS and from memory.

    python benchmarks/documents/server.py COHORTS AUTHORITY

writes the certificate to trust to the file AUTHORITY, then prints the port it
listens at and the bytes of the list of so many cohorts.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys

import trustme

USAGE = {"rest_download": {"limit": 500, "usage": 17}}


def cohort(number: int) -> dict[str, object]:
    """Make a cohort as the list tells it, with a definition of four conditions."""
    condition = {
        "type": "event",
        "time_type": "rolling",
        "time_value": 30,
        "offset": 0,
        "interval": 1,
        "type_value": f"event number {number % 97}",
        "operator": ">=",
        "operator_value": 1,
        "group_by": [],
        "metric": None,
    }
    clause = {"negated": False, "orClauses": [condition, condition]}

    return {
        "appId": 123456,
        "archived": False,
        "definition": {
            "version": 3,
            "countGroup": {"name": "User", "is_computed": False},
            "cohortType": "UNIQUES",
            "andClauses": [clause, clause],
            "referenceFrameTimeParams": {},
        },
        "description": f"Those who did number {number} — often",
        "finished": True,
        "id": f"id{number:06}",
        "name": f"Cohort {number}",
        "owners": ["demo@example.com"],
        "viewers": [],
        "published": True,
        "size": 111 * number,
        "type": "redshift",
        "lastMod": 1679437294 + number,
        "createdAt": 1679437288 + number,
        "lastComputed": 1679440233 + number,
        "hidden": False,
        "metadata": None,
        "view_count": None,
        "popularity": None,
        "last_viewed": None,
        "chart_id": None,
        "edit_id": None,
        "is_predictive": False,
        "is_official_content": False,
        "location_id": None,
        "shortcut_ids": [],
    }


def answer(document: object) -> bytes:
    """Make an answer of a document."""
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()

    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    ) + body


def certified(authority: str) -> ssl.SSLContext:
    """Make the server's half of TLS."""
    issuer = trustme.CA()
    issuer.cert_pem.write_to_path(authority)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    issuer.issue_cert("localhost").configure_cert(context)

    return context


async def serve(cohorts: int, authority: str) -> None:
    """Answer until killed."""
    usage = answer(USAGE)
    listed = answer({"cohorts": [cohort(number) for number in range(cohorts)]})

    async def handle(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                writer.write(usage if b"/usage " in head else listed)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(
        handle, "127.0.0.1", 0, ssl=certified(authority)
    )
    print(server.sockets[0].getsockname()[1], len(listed), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2]))
