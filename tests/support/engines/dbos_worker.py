"""A worker of DBOS: it registers the exports, and works until it is killed."""

from __future__ import annotations

import threading

from dbos import DBOS

from amplitude_cohorts_async.contrib.dbos import CohortExports, dbos_config

from .dying import arm

EVERY_SECOND = "* * * * * *"


def work(url: str, executor_id: str, release: str) -> None:
    """
    Work until killed; what is two seconds overdue counts as left.

    Args:
        url: The system database.
        executor_id: That of no other worker.
        release: Of its code; "1" is the first one.
    """
    arm()
    if release != "1":
        DBOS.workflow(name="added")(_added)
    exports = CohortExports(overdue_after=2.0)
    config = dbos_config(url, executor_id=executor_id)
    DBOS(config={**config, "log_level": "ERROR", "scheduler_polling_interval_sec": 0.5})
    DBOS.launch()
    exports.listen(sweep_schedule=EVERY_SECOND)
    threading.Event().wait()


async def _added() -> None:
    """Do nothing: a workflow changes the version that DBOS computes."""
