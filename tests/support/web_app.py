"""A user's app: what a process of uvicorn serves in tests."""

from __future__ import annotations

import os

from fastapi import FastAPI

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.contrib.fastapi import CohortExports
from amplitude_cohorts_async.policies import Polling


def make_client() -> CohortsClient:
    """Return a client that polls a service on this machine without waiting long."""
    return CohortsClient.from_env(
        polling=Polling(initial_delay=0.2, interval=0.2, jitter=0.0)
    )


exports = CohortExports(os.environ["EXPORTS"], client=make_client)
app = FastAPI(lifespan=exports.lifespan)
app.include_router(exports.router(auth=None), prefix="/api")
