"""Assets of Dagster: what they are told, and what a killed run has spent."""

# ruff: noqa: E402 - the engine may be missing

from __future__ import annotations

import asyncio
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.requirements import require

require("dagster")

from dagster import (
    AssetKey,
    AssetsDefinition,
    AssetSelection,
    DagsterInstance,
    Definitions,
    ExecuteInProcessResult,
    StaticPartitionsDefinition,
    define_asset_job,
)

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.contrib.dagster import (
    CohortsResource,
    cohort_asset,
    observable_cohorts,
    source_key,
)
from amplitude_cohorts_async.errors import InvalidInputError
from amplitude_cohorts_async.policies import Polling
from amplitude_cohorts_async.testing import CohortsEmulator
from support.engines.dagster_run import TARGET
from support.engines.dying import WINDOW, Moment
from support.engines.engine import Place
from support.engines.service import MEMBERS, Service, running_service

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default:::dagster"),
    pytest.mark.filterwarnings("default::ResourceWarning"),
    pytest.mark.filterwarnings("default::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def world(
    cohorts_emulator: CohortsEmulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> CohortsEmulator:
    """Two cohorts, and a job store in a file."""
    monkeypatch.setenv("AMPLITUDE_JOBS", str(tmp_path / "exports.db"))
    cohorts_emulator.add_cohort("c1", members=["a", "b"])
    cohorts_emulator.add_cohort("c2", members=["c"])

    return cohorts_emulator


class QuickResource(CohortsResource):
    """Its clients poll often."""

    def client(self) -> CohortsClient:
        """Return one."""
        often = Polling(initial_delay=0.05, interval=0.05, jitter=0.0)
        return CohortsClient.from_env(polling=often)


def run(
    *assets: AssetsDefinition, partition: str | None = None
) -> ExecuteInProcessResult:
    """Run the assets in a new run of a new instance."""
    job = define_asset_job("all", selection=AssetSelection.assets(*assets))
    defined = Definitions(
        assets=assets, resources={"cohorts": QuickResource()}, jobs=[job]
    ).resolve_job_def("all")

    with DagsterInstance.ephemeral() as instance:
        return defined.execute_in_process(
            instance=instance, partition_key=partition, raise_on_error=False
        )


def observed_sources() -> AssetsDefinition:
    """Return sources, one of which is not listed; Dagster calls their kind a beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return observable_cohorts(["c1", "c2", "c9"])


def test_an_asset_is_the_file(world: CohortsEmulator, tmp_path: Path) -> None:
    """It is told what it is, and its data version is the digest."""
    result = run(cohort_asset("c1", tmp_path / "c1.csv"))

    (told,) = result.asset_materializations_for_node("cohort_c1")
    metadata = {name: value.value for name, value in told.metadata.items()}
    assert 2 == metadata["dagster/row_count"]
    assert str(tmp_path / "c1.csv") == metadata["path"]
    assert 499 == metadata["amplitude/quota_left"]
    assert told.tags is not None
    assert metadata["sha256"] == told.tags["dagster/data_version"]
    assert 1 == world.spent


def test_a_new_run_is_a_new_export(world: CohortsEmulator, tmp_path: Path) -> None:
    """The occurrence is the run's."""
    asset = cohort_asset("c1", tmp_path / "c1.csv")

    assert run(asset).success
    assert run(asset).success

    assert 2 == world.spent


def test_an_occurrence_of_the_users(world: CohortsEmulator, tmp_path: Path) -> None:
    """The partition alone: all runs of it share an export."""
    asset = cohort_asset(
        "c1",
        f"{tmp_path}/{{partition}}.csv",
        partitions_def=StaticPartitionsDefinition(["mon", "tue"]),
        occurrence=lambda context: context.partition_key,
    )

    for day in ("mon", "mon", "tue"):
        assert run(asset, partition=day).success

    assert 2 == world.spent
    assert {"mon.csv", "tue.csv"} == {path.name for path in tmp_path.glob("*.csv")}


@pytest.mark.parametrize(
    ("to", "days"), [("a.csv", ["mon"]), ("{partition}.csv", None)]
)
def test_partitions_have_files_of_their_own(to: str, days: list[str] | None) -> None:
    """Two partitions never have one target."""
    with pytest.raises(InvalidInputError, match="partition"):
        cohort_asset("c1", to, partitions_def=days and StaticPartitionsDefinition(days))


def test_one_list_for_all_sources(world: CohortsEmulator) -> None:
    """An observation of three reads the list once, and spends nothing."""
    before = len(world.log)

    result = run(observed_sources())

    assert result.success
    assert 1 == len(world.log) - before
    observed = [
        event.asset_observation_data.asset_observation
        for event in result.all_events
        if event.event_type_value == "ASSET_OBSERVATION"
    ]
    assert {source_key("c1"), source_key("c2")} == {each.asset_key for each in observed}
    assert all(each.tags["dagster/data_version"] for each in observed)
    assert 0 == world.spent


def test_an_asset_depends_on_its_source(tmp_path: Path) -> None:
    """So Dagster knows what is stale."""
    asset = cohort_asset("c1", tmp_path / "c1.csv")

    assert {source_key("c1")} == asset.asset_deps[AssetKey("cohort_c1")]


@pytest.fixture
def service() -> Iterator[Service]:
    """The emulator in a process of its own."""
    with running_service() as service:
        yield service


@pytest.fixture
def place(service: Service, tmp_path: Path) -> Place:
    """Where Dagster works: it sends no telemetry."""
    home = tmp_path / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    environment = {
        **service.environment,
        "AMPLITUDE_JOBS": str(tmp_path / "exports.db"),
        "AMPLITUDE_LIMITER_URL": f"sqlite:///{tmp_path}/limits.db",
        "DAGSTER_HOME": str(home),
        "HOME": str(tmp_path),
        TARGET: str(tmp_path / "members.csv"),
    }

    return Place(folder=tmp_path, environment=environment)


async def run_process(place: Place, dies: Moment | None = None) -> tuple[int, str]:
    """Run the asset in a process; return how it ended, and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "support.engines.dagster_run"),
        env=place.of_worker(dies),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    said, _ = await process.communicate()
    assert process.returncode is not None

    return process.returncode, said.decode()


@pytest.mark.parametrize("moment", ["claimed", "requested", "polled", "downloading"])
async def test_killed(place: Place, service: Service, moment: Moment) -> None:
    """The re-execution of a killed run goes on with its export."""
    ended, said = await run_process(place, moment)
    assert -signal.SIGKILL == ended, said

    ended, said = await run_process(place)

    assert 0 == ended, said
    assert 1 + MEMBERS == len((place.folder / "members.csv").read_text().splitlines())
    assert 1 == service.account().spent
    assert {} == service.account().violations


@pytest.mark.parametrize("moment", WINDOW)
async def test_killed_between_sending_and_recording(
    place: Place, service: Service, moment: Moment
) -> None:
    """The re-execution says that nobody knows, and spends nothing."""
    ended, said = await run_process(place, moment)
    assert -signal.SIGKILL == ended, said

    ended, said = await run_process(place)

    assert 1 == ended
    assert "AmbiguousExportError" in said
    assert int(moment == "sent") == service.account().spent
    assert not os.path.lexists(place.folder / "members.csv")
