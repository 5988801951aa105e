"""
Exports as assets of Dagster, and cohorts as sources that it observes.

An asset makes the steps of `CohortsClient.tick()` and sleeps in between. Dagster starts
nothing again by itself when its process is killed: the next attempt goes on with the
same export if it is a retry or a re-execution of the same run.
"""

# Without `annotations` of __future__: Dagster reads those of the functions as they are.

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from .. import CohortsClient
from ..errors import CohortsError, InvalidInputError, MissingExtraError
from ..jobs import LONGEST_OCCURRENCE, JobRecord
from ..models import SavedExport

try:
    from dagster import (
        AssetDep,
        AssetExecutionContext,
        AssetKey,
        AssetsDefinition,
        AssetSpec,
        ConfigurableResource,
        DataVersion,
        MaterializeResult,
        MetadataValue,
        ObserveResult,
        PartitionsDefinition,
        RetryPolicy,
        asset,
        multi_observable_source_asset,
    )
except ModuleNotFoundError as _error:
    raise MissingExtraError("exports as assets of Dagster", extra="dagster") from _error

__all__ = (
    "POOL",
    "CohortsResource",
    "cohort_asset",
    "observable_cohorts",
    "occurrence_of",
    "source_key",
)

POOL = "amplitude_exports"
"""The pool of the assets; the limiter keeps the limits, whatever the pool allows."""


class CohortsResource(ConfigurableResource["CohortsResource"]):
    """
    Makes the clients of the assets; its key is ``cohorts``.

    What is not given comes from the environment, as for ``CohortsClient.from_env()``.
    Pass keys as ``EnvVar("NAME")``: Dagster shows and stores plain values. A subclass
    may override `client()`.

    Attributes:
        jobs: The job store. All processes that may run an asset need the same one.
    """

    api_key: str | None = None
    secret_key: str | None = None
    region: str | None = None
    base_url: str | None = None
    jobs: str | None = None

    def client(self) -> CohortsClient:
        """Return a client, for ``async with``."""
        given = {
            "api_key": self.api_key,
            "secret_key": self.secret_key,
            "region": self.region,
            "base_url": self.base_url,
            "jobs": self.jobs,
        }

        return CohortsClient.from_env(
            **{name: value for name, value in given.items() if value is not None}
        )


def source_key(cohort_id: str) -> AssetKey:
    """Return the key under which a cohort is observed."""
    return AssetKey(["amplitude_cohorts", cohort_id])


def occurrence_of(context: AssetExecutionContext) -> str:
    """
    Return what names an export: the first run of its re-executions, asset, partition.

    A retry, and a re-execution of a run, find the export of the first attempt; a new
    run makes a new one. It is a list in JSON, or the SHA-256 of that if it is too long
    for an occurrence.
    """
    run_id = context.run.root_run_id or context.run.run_id
    partition = context.partition_key if context.has_partition_key else None
    # All of them may contain any character.
    name = json.dumps([run_id, list(context.asset_key.path), partition])

    # The keys of assets and partitions may be longer.
    if len(name) > LONGEST_OCCURRENCE:
        return sha256(name.encode()).hexdigest()
    return name


def cohort_asset(
    cohort_id: str,
    to: str | Path,
    *,
    name: str | None = None,
    properties: bool | Sequence[str] = False,
    format: str | None = None,  # noqa: A002 - as everywhere
    occurrence: Callable[[AssetExecutionContext], str] = occurrence_of,
    partitions_def: PartitionsDefinition[str] | None = None,
    retry_policy: RetryPolicy | None = None,
    group_name: str | None = None,
    pool: str | None = POOL,
) -> AssetsDefinition:
    """
    Return an asset that is the file of a cohort; it needs the resource ``cohorts``.

    Its data version is the file's digest. Its metadata has the path, rows, bytes,
    digest, and what is left of the month's exports. It depends on `source_key()`.

    Args:
        to: The target, an absolute path. With partitions it contains ``{partition}``.
        name: Of the asset; ``cohort_ID`` by default.
        properties: As for ``CohortsClient.export()``.
        format: Needed when the name of the target does not end in it.
        occurrence: Names the export that a materialization is of. The partition alone
            lets all runs of seven days share one export of it.
        retry_policy: A retry spends nothing that an earlier try has spent.
        pool: Its limit is how many of the assets run at a time.
    """
    if (partitions_def is not None) != ("{partition}" in str(to)):
        raise InvalidInputError(
            f"{to}: the target of an asset contains {{partition}} if it has "
            f"partitions, and only then"
        )

    @asset(
        name=name or f"cohort_{cohort_id}",
        deps=[AssetDep(source_key(cohort_id))],
        partitions_def=partitions_def,
        retry_policy=retry_policy,
        group_name=group_name,
        pool=pool,
    )
    async def export(
        context: AssetExecutionContext, cohorts: CohortsResource
    ) -> MaterializeResult[None]:
        """The members of a cohort, as a file."""
        target = str(to)
        if context.has_partition_key:
            target = target.replace("{partition}", context.partition_key)

        record = JobRecord.new(
            cohort_id,
            target,
            properties=properties,
            format=format,
            occurrence=occurrence(context),
        )

        async with cohorts.client() as client:
            saved = await _exported(client, record, context)
            quota_left = await _quota_left(client, context)

        return await _result(saved, quota_left)

    return export


def observable_cohorts(
    cohort_ids: Sequence[str], *, name: str = "amplitude_cohorts"
) -> AssetsDefinition:
    """
    Return sources whose data version is when the cohort was last computed.

    An observation of any number of them reads the list of cohorts once, and spends no
    export. Schedule it, or observe it by hand. A cohort that is not listed is named in
    the log, and keeps its version. Observe them together with the resource
    ``cohorts``.
    """
    wanted = {source_key(each): each for each in cohort_ids}

    def observe(
        context: AssetExecutionContext, cohorts: CohortsResource
    ) -> Iterator[ObserveResult]:
        versions = asyncio.run(_versions(cohorts))

        for key in context.selected_asset_keys:
            if version := versions.get(wanted[key]):
                yield ObserveResult(asset_key=key, data_version=DataVersion(version))
            else:
                context.log.warning("%s is not in the list of cohorts", wanted[key])

    specs = [AssetSpec(key) for key in wanted]
    made: AssetsDefinition = multi_observable_source_asset(
        name=name, specs=specs, can_subset=True
    )(observe)

    return made


async def _exported(
    client: CohortsClient, record: JobRecord, context: AssetExecutionContext
) -> SavedExport:
    while True:
        tick = await client.tick(record)
        if tick.saved is not None:
            return tick.saved
        if tick.last_error is not None:
            context.log.warning("%s goes on later: %s", record.key, tick.last_error)

        record = tick.record
        await asyncio.sleep(tick.due_in or 0.0)


async def _quota_left(
    client: CohortsClient, context: AssetExecutionContext
) -> int | None:
    """Return it if it can be had: the file is there in any case."""
    try:
        return (await client.get_usage()).remaining
    except CohortsError as error:
        context.log.warning("what is left of the month is not known: %s", error)

    return None


async def _result(
    saved: SavedExport, quota_left: int | None
) -> MaterializeResult[None]:
    digest = await saved.digest()
    rows = await asyncio.to_thread(lambda: saved.rows)
    known = {"dagster/row_count": rows, "amplitude/quota_left": quota_left}

    return MaterializeResult(
        metadata={
            "path": MetadataValue.path(saved.location or str(saved.path)),
            "bytes": saved.size,
            "sha256": digest,
            **{name: value for name, value in known.items() if value is not None},
        },
        data_version=DataVersion(digest),
    )


async def _versions(cohorts: CohortsResource) -> dict[str, str]:
    async with cohorts.client() as client:
        listed = await client.list_cohorts()

    return {
        each.id: each.last_computed.isoformat() if each.last_computed else "never"
        for each in listed
    }
