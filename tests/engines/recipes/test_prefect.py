"""The flow of Prefect, with a server of its own."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import pytest

from amplitude_cohorts_async.jobs import JobRecord
from support.engines.engine import Place
from support.engines.prefect_flows import run_flow, running_server
from support.engines.service import COHORT, MEMBERS, Service
from support.requirements import require

require("prefect")

pytestmark = [
    *(pytest.mark.recipes, pytest.mark.slow),
    pytest.mark.xdist_group("prefect"),  # of one server
]

KILLED = -9


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables of a running server."""
    with running_server(tmp_path_factory.mktemp("prefect")) as variables:
        yield variables


@pytest.fixture
def flows(place: Place, server: dict[str, str]) -> Place:
    """Where the flows run."""
    return attrs.evolve(place, environment={**place.environment, **server})


@pytest.fixture
def record(place: Place) -> JobRecord:
    """What the flow is asked for."""
    file = place.folder / "files" / "a.csv"
    return JobRecord.new(COHORT, file, occurrence="monday")


async def test_who_runs_it_again_goes_on(
    flows: Place, record: JobRecord, service: Service
) -> None:
    """Prefect starts nothing again; the same call spends nothing again."""
    code, _ = await run_flow(flows, record, dies="polled")
    assert KILLED == code

    assert 0 == (await run_flow(flows, record))[0]
    check(record, service)

    assert 0 == (await run_flow(flows, record))[0]
    check(record, service)


async def test_nobody_knows_whether_it_was_spent(
    flows: Place, record: JobRecord, service: Service
) -> None:
    """Killed between sending and recording: it says so, and spends nothing."""
    code, _ = await run_flow(flows, record, dies="sent")
    assert KILLED == code

    code, said = await run_flow(flows, record)
    assert (1, True) == (code, "AmbiguousExportError" in said)
    assert 1 == service.account().spent


def check(record: JobRecord, service: Service) -> None:
    """Compare the file, and what the service counted."""
    assert record.to is not None
    rows = record.to.read_text().splitlines()

    assert 1 + MEMBERS == len(rows) == len(set(rows))
    assert [record.to] == [*record.to.parent.iterdir()]
    assert (1, {}) == (service.account().spent, service.account().violations)
