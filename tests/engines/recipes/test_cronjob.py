"""The command in pods of a CronJob, with Postgres for limits and exports."""

# ruff: noqa: E402 - what it needs may be missing

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from support.requirements import require

require("yaml")

from support.canary import API_KEY
from support.engines.engine import Workspace
from support.engines.pods import CronJob
from support.engines.service import MEMBERS, Service
from support.fleet_stores import PostgresStore
from support.postgres import Postgres

pytestmark = [pytest.mark.recipes, pytest.mark.slow, pytest.mark.services]

KILLED = -9
UNFINISHED = 7


@pytest.fixture
def cron_job(workspace: Workspace, service: Service, postgres: Postgres) -> CronJob:
    """The recipe, with a database that has been in use: a new one is waited out."""
    app = sha256(f"{service.base_url}\n{API_KEY}".encode()).hexdigest()[:16]
    PostgresStore(postgres).use(app)
    del workspace.environment["AMPLITUDE_JOBS"]
    workspace.environment["AMPLITUDE_LIMITER_URL"] = postgres.url

    return CronJob.of(workspace)


def is_whole(folder: Path) -> bool:
    """Whether a folder has one file, which is whole."""
    (file,) = folder.iterdir()
    rows = file.read_text().splitlines()

    return 1 + MEMBERS == len(rows) == len(set(rows))


async def test_each_night_is_an_export(cron_job: CronJob, service: Service) -> None:
    """A job spends one, and so does the next one."""
    assert 0 == await cron_job.run("cohort-1", "cohort-1-a")
    assert 1 == service.account().spent
    assert 0 == await cron_job.run("cohort-2", "cohort-2-a")
    assert 2 == service.account().spent

    assert is_whole(cron_job.volume)
    assert {} == service.account().violations


async def test_the_next_pod_goes_on(cron_job: CronJob, service: Service) -> None:
    """A pod is killed; the one that is started in its place has another name."""
    assert KILLED == await cron_job.run("cohort-1", "cohort-1-a", dies="downloading")
    assert 0 == await cron_job.run("cohort-1", "cohort-1-b")

    assert is_whole(cron_job.volume)
    assert 1 == service.account().spent


async def test_the_occurrence_is_enough_for_other_hosts(
    cron_job: CronJob, service: Service
) -> None:
    """Without a fixed `hostname:` the same job goes on with its export."""
    cron_job = cron_job.with_names()

    assert KILLED == await cron_job.run("cohort-1", "cohort-1-a", dies="polled")
    assert 0 == await cron_job.run("cohort-1", "cohort-1-b")

    assert is_whole(cron_job.volume)
    assert 1 == service.account().spent


async def test_jobs_run_alone_needs_the_same_host(
    cron_job: CronJob, service: Service
) -> None:
    """What a pod left is for a file of its host: elsewhere it is left alone."""
    assert KILLED == await cron_job.run("cohort-1", "cohort-1-a", dies="polled")

    assert 0 == await cron_job.with_names().run_jobs("cohort-2", "cohort-2-a")
    assert [] == [*cron_job.volume.iterdir()]

    # It may still look as if the first pod lived.
    while (code := await cron_job.run_jobs("cohort-2", "cohort-2-b")) == UNFINISHED:
        pass
    assert 0 == code
    assert is_whole(cron_job.volume)
    assert 1 == service.account().spent
