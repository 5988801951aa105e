"""A format is one object: who adds one adds nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async._io.sinks.filters import (
    Count,
    Filter,
    Inflate,
    PassThrough,
)
from amplitude_cohorts_async._io.sinks.formats import FORMATS, Chain, Format, Options
from amplitude_cohorts_async.errors import InvalidInputError, MissingExtraError
from amplitude_cohorts_async.testing import CohortsEmulator


class Loud(PassThrough):
    """Makes text upper case."""

    def write(self, data: bytes | memoryview) -> None:
        """Take the next text."""
        super().write(bytes(data).upper())


def to_loud(file: Filter, is_gzip: bool, options: Options) -> Chain:
    """Build the filters of the toy."""
    counter = Count(Loud(file))

    return Chain(first=Inflate(counter) if is_gzip else counter, counter=counter)


def missing() -> None:
    """Lack a package."""
    raise MissingExtraError("Loudness", extra="loud")


@pytest.fixture(autouse=True)
def loud(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add a toy of a format."""
    monkeypatch.setitem(FORMATS, "loud", Format(suffix="loud", build_filters=to_loud))


@pytest.mark.parametrize(("name", "format_"), [("c1.loud", None), ("c1.txt", "loud")])
async def test_a_new_format_is_a_target(
    client: CohortsClient,
    emulator: CohortsEmulator,
    tmp_path: Path,
    name: str,
    format_: str | None,
) -> None:
    """Its name or `format=` chooses it, its filters make the file and count."""
    emulator.add_cohort("c1", members=["ann", "bob"])

    saved = await client.export("c1", tmp_path / name, format=format_)

    assert "ANN" in saved.path.read_text()
    assert 2 == saved.rows


async def test_a_new_format_is_one_for_many(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """Files of a run are named after it."""
    emulator.add_cohort("c1", members=["ann"])

    async for _ in client.export_many(["c1"], tmp_path, format="loud"):
        pass

    assert "ANN" in (tmp_path / "c1.loud").read_text()


@pytest.mark.parametrize(("name", "format_"), [("c1.xml", None), ("c1", "xml")])
async def test_a_new_format_is_named(
    client: CohortsClient,
    tmp_path: Path,
    name: str,
    format_: str | None,
) -> None:
    """Who asks for one that is unknown is told of it."""
    with pytest.raises(InvalidInputError, match=r"loud"):
        await client.export("c1", tmp_path / name, format=format_)


async def test_what_a_format_needs_is_asked_first(
    client: CohortsClient,
    emulator: CohortsEmulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without its package nothing is spent."""
    monkeypatch.setitem(
        FORMATS,
        "loud",
        Format(suffix="loud", build_filters=to_loud, require=missing),
    )

    with pytest.raises(MissingExtraError, match="loud"):
        await client.export("c1", tmp_path / "c1.loud")

    assert [] == emulator.log
