"""
Dagster: one run of a job with an asset for each export, each in a process of its own.

As many at a time as the limits allow to be in flight: an asset waits for them itself.
"""

# Without `annotations` of __future__, as in contrib/dagster.py.

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dagster import (
    DagsterInstance,
    Definitions,
    JobDefinition,
    define_asset_job,
    execute_job,
    multiprocess_executor,
    reconstructable,
)

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.contrib.dagster import CohortsResource, cohort_asset

from .common import Place, client, run

_AT_A_TIME = 5
_OPTIONS = {
    "max_concurrent": _AT_A_TIME,
    "start_method": {"forkserver": {"preload_modules": [__spec__.name]}},
}


class ScaledCohorts(CohortsResource):
    """Makes clients that are scaled."""

    def client(self) -> CohortsClient:
        """Return one."""
        return client()


def job() -> JobDefinition:
    """Return the job."""
    place = Place.here()
    assets = [
        cohort_asset(each, place.folder / f"{each}.csv", pool=None)
        for each in place.cohorts
    ]
    executor = multiprocess_executor.configured(_OPTIONS)

    return Definitions(
        assets=assets,
        resources={"cohorts": ScaledCohorts()},
        jobs=[define_asset_job("export", executor_def=executor)],
    ).resolve_job_def("export")


@contextmanager
def prepare(place: Place) -> Iterator[Callable[[], None]]:
    """Make an instance, and read the definitions."""
    home = place.folder.parent
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    os.environ["DAGSTER_HOME"] = str(home)
    made = reconstructable(job)

    with DagsterInstance.get() as instance:
        yield lambda: execute_job(made, instance=instance) and None


if __name__ == "__main__":
    from ways import dagster  # noqa: PLW0406 - Dagster imports it

    run(dagster.prepare)
