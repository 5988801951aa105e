"""A web service in this process, and its callers, who ask until they have their file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from fastapi import FastAPI, HTTPException

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.errors import CohortsError

from .soaking import TRIES, OnUnknown, Soak, on_unknown_after


def service(client: CohortsClient, folder: Path) -> FastAPI:
    """Return a web service that answers once the file is there."""
    app = FastAPI()

    @app.post("/exports/{cohort_id}/{name}")
    async def export(cohort_id: str, name: str, on_unknown: OnUnknown) -> int:
        try:
            saved = await client.export(cohort_id, folder / name, on_unknown=on_unknown)
        except CohortsError as error:
            raise HTTPException(503, type(error).__name__) from error
        return saved.rows or 0

    return app


@asynccontextmanager
async def visitors(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Talk to a service in this process; each call may last."""
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://soak", timeout=None
    ) as http:
        yield http


async def visit_each(
    soak: Soak, http: httpx.AsyncClient, names: list[str], callers: int, shared: int
) -> None:
    """
    Let all callers ask for a file of their own of each cohort that is their turn's.

    Those of one cohort ask at the same time: one that came when the others have their
    files would be due an export of its own.
    """
    rounds = len(names) // shared
    together = [asyncio.Barrier(callers // shared) for _ in range(shared)]

    async def call(caller: int) -> None:
        for turn in range(rounds):
            await together[caller % shared].wait()
            cohort_id = names[turn * shared + caller % shared]
            await visit_once(soak, http, f"/exports/{cohort_id}/{turn}-{caller}.csv")
            soak.end()

    async with asyncio.TaskGroup() as group:
        for caller in range(callers):
            group.create_task(call(caller))


async def visit_once(soak: Soak, http: httpx.AsyncClient, path: str) -> None:
    """Ask the service until it has made the file."""
    on_unknown: OnUnknown = "raise"
    for _ in range(TRIES):
        answer = await http.post(path, params={"on_unknown": on_unknown})
        if answer.is_success:
            return
        kind = answer.json()["detail"]
        soak.again[kind] += 1
        on_unknown = on_unknown_after(kind)

    msg = f"no file for {path} after {TRIES} calls; the last one ended with {kind}"
    raise AssertionError(msg)
