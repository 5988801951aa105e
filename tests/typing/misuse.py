"""
What a type checker must refuse. Checked, never run.

Each refusal is written down; one that does not come is itself an error.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from amplitude_cohorts_async import CohortsClient, IdType, Member, MembershipOperation


async def mistakes(client: CohortsClient, member: Member) -> None:
    """Mistakes that would cost an export, or write the wrong people."""
    await client.upload_cohort("a", ["ann"])  # type: ignore[call-arg]
    await client.upload_cohort("a", ["ann"], id_type="BY_NAME")  # type: ignore[arg-type]
    await client.update_membership("c1", ["ann"])  # type: ignore[call-arg]
    MembershipOperation("add", ["ann"])  # type: ignore[arg-type]
    for outcome in client.export_many(["c1"], "."):  # type: ignore[attr-defined]
        del outcome
    await client.export("c1", "out.csv", True, 900)  # type: ignore[call-arg]
    await client.request_export(12345)  # type: ignore[arg-type]
    async for each in client.list_cohorts():  # type: ignore[attr-defined]
        del each

    member.user_id.upper()  # type: ignore[union-attr]
    assert IdType.BY_NAME  # type: ignore[attr-defined]
