"""Assets of Dagster; what all engines promise is in `conformance`."""

# ruff: noqa: E402 - the engine may be missing

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from support.requirements import require

require("dagster")

from dagster import (
    AssetExecutionContext,
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
    occurrence_of,
    source_key,
)
from amplitude_cohorts_async.errors import InvalidInputError
from amplitude_cohorts_async.policies import Polling
from amplitude_cohorts_async.testing import CohortsEmulator
from support.engines.dagster_run import DagsterEngine
from support.engines.engine import Workspace
from support.engines.scene import Scene
from support.engines.service import running_service

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


def named(path: list[str], partition: str | None = None) -> str:
    """Return the occurrence of an asset in a run."""
    context = SimpleNamespace(
        run=SimpleNamespace(root_run_id=None, run_id="run"),
        asset_key=AssetKey(path),
        has_partition_key=partition is not None,
        partition_key=partition,
    )
    return occurrence_of(cast(AssetExecutionContext, context))


def test_the_names_of_assets_are_theirs_alone() -> None:
    """Whatever their keys and partitions contain, and however long those are."""
    names = {
        named(["a", "b"]),
        named(["a/b"]),
        named(["a"], "b"),
        named(["a"], "b" * 250),
        named(["a"], "b" * 251),
    }

    assert 5 == len(names)
    assert '["run", ["a"], "b"]' in names
    assert all(len(each) <= 200 for each in names)


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


def test_the_example_of_the_page(world: CohortsEmulator) -> None:
    """Its definitions are sound, and have the asset and its source."""
    page = Path(__file__).parents[2] / "docs/howto/engines.md"
    chapter = page.read_text().partition("## Dagster")[2]
    code = chapter.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Definitions] = {}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(code, names)
    Definitions.validate_loadable(names["definitions"])

    keys = set(names["definitions"].resolve_all_asset_keys())
    assert {AssetKey(["cohort_26umsb5"]), source_key("26umsb5")} == keys
    assert [] == world.log


async def test_killed(tmp_path: Path) -> None:
    """The re-execution of a killed run goes on with its export."""
    with running_service() as service:
        environment = {
            **service.environment,
            "AMPLITUDE_JOBS": str(tmp_path / "exports.db"),
            "AMPLITUDE_LIMITER_URL": f"sqlite:///{tmp_path}/limits.db",
        }
        workspace = Workspace(folder=tmp_path, environment=environment)

        async with DagsterEngine(workspace) as engine:
            scene = Scene.of(engine, service)
            await engine.start_worker(dies="requested")
            await scene.submit()
            await scene.killed()

            await scene.ends_well()
