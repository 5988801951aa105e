"""The flow of Prefect, with a server of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from amplitude_cohorts_async.jobs import JobRecord
from support.engines.engine import Workspace
from support.engines.prefect_flows import run_flow, running_server
from support.engines.service import COHORT, MEMBERS, Service
from support.requirements import require

require("prefect")

pytestmark = [pytest.mark.recipes, pytest.mark.slow]

KILLED = -9


@pytest.fixture
def server(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The variables of a running server."""
    with running_server(tmp_path) as variables:
        yield variables


@pytest.fixture
def flows(workspace: Workspace, server: dict[str, str]) -> Workspace:
    """Where the flows run."""
    return attrs.evolve(workspace, environment={**workspace.environment, **server})


async def test_who_runs_it_again_goes_on(flows: Workspace, service: Service) -> None:
    """Prefect starts nothing again; the same call spends nothing again."""
    file = flows.folder / "files" / "a.csv"
    record = JobRecord.new(COHORT, file, occurrence="monday")

    assert KILLED == await run_flow(flows, record, dies="polled")
    assert 0 == await run_flow(flows, record)

    rows = file.read_text().splitlines()
    assert 1 + MEMBERS == len(rows) == len(set(rows))
    assert [file] == [*file.parent.iterdir()]
    assert 1 == service.account().spent
    assert {} == service.account().violations
