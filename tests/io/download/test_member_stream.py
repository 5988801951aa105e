"""Members as a stream: batches of an exact size, and nothing lost in between."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import anyio
import pytest
from anyio.lowlevel import checkpoint

from amplitude_cohorts_async._core.export_errors import ExportErrors
from amplitude_cohorts_async._core.tokens import ExportRef, to_token
from amplitude_cohorts_async._io.download.member_stream import MemberStream
from amplitude_cohorts_async.errors import InvalidInputError, MalformedFileError

ERRORS = ExportErrors(ExportRef(request_id="Sf7M9j", cohort_id="c1"))


def file(rows: int) -> bytes:
    """Make a file of this many members."""
    return b'"amplitude_id","user_id"\n' + b"".join(
        b'"%d","user %d"\n' % (number, number) for number in range(rows)
    )


async def pieces(data: bytes, size: int = 7_777) -> AsyncGenerator[memoryview]:
    """Hand out *data* through one buffer that is used again and again."""
    buffer = bytearray(size)

    for start in range(0, len(data), size):
        piece = data[start : start + size]
        buffer[: len(piece)] = piece
        await checkpoint()
        yield memoryview(buffer)[: len(piece)]


def stream(data: bytes) -> MemberStream:
    """Open a stream of the members in *data*."""
    return MemberStream(pieces(data), errors=ERRORS)


async def test_batches_have_the_size_asked_for():
    """All batches are full but the last one, and the order is the file's."""
    members = stream(file(50_000))
    batches = [batch async for batch in members.batches(12_345)]

    assert [12_345] * 4 + [620] == [len(batch) for batch in batches]
    assert [str(number) for number in range(50_000)] == [
        member.amplitude_id for batch in batches for member in batch
    ]
    assert 50_000 == members.rows


async def test_rows_are_the_members_one_by_one():
    """A row is a member, in the file's order."""
    assert [f"user {number}" for number in range(30_000)] == [
        member.user_id async for member in stream(file(30_000))
    ]


async def test_rows_and_batches_may_be_mixed():
    """A loop left early loses nothing for the next one, of either kind."""
    members = stream(file(40_000))
    seen = []

    async for member in members:
        seen.append(member)
        if len(seen) == 10:
            break

    async for batch in members.batches(7):
        seen += batch
        break

    async for batch in members.batches(25_000):
        seen += batch
        break

    seen += [member async for member in members]

    assert [str(number) for number in range(40_000)] == [
        member.amplitude_id for member in seen
    ]


async def test_an_empty_cohort_has_no_batches():
    """A header alone makes no batch, not an empty one."""
    assert [] == [batch async for batch in stream(file(0)).batches()]


async def test_a_fault_names_the_job():
    """A malformed file is an error of its export, with line and token."""
    with pytest.raises(
        MalformedFileError, match="Sf7M9j is malformed: line 5"
    ) as caught:
        [member async for member in stream(file(3) + b'"4"\n')]

    assert (5, to_token(ERRORS.ref)) == (caught.value.line, caught.value.token)


async def test_a_file_without_a_byte_is_a_fault():
    """Nothing at all is not an empty cohort."""
    with pytest.raises(MalformedFileError, match="the file is empty"):
        [member async for member in stream(b"")]


async def test_a_stream_that_was_cut_short_never_looks_complete():
    """After a cancelled read the rest is refused, not silently missing."""
    members = stream(file(100_000))

    with anyio.CancelScope() as scope:
        async for _ in members.batches():
            scope.cancel()

    assert scope.cancelled_caught

    with pytest.raises(InvalidInputError, match="was cut short"):
        [member async for member in members]


async def test_an_error_of_the_source_is_not_the_end_of_the_file():
    """What the network raises comes through, and the stream stays broken."""

    async def failing() -> AsyncIterator[bytes]:
        yield file(10)
        raise ConnectionResetError

    members = MemberStream(failing(), errors=ERRORS)

    with pytest.raises(ConnectionResetError):
        [member async for member in members]

    with pytest.raises(InvalidInputError, match="was cut short"):
        [member async for member in members]


async def test_two_readers_of_one_stream_are_refused():
    """A stream has one reader at a time; the second one hears so."""
    # It is not read to its end: left to the collector, it is closed in any test.
    async with aclosing(pieces(file(100_000))) as source:
        members = MemberStream(source, errors=ERRORS)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(members.__anext__)
            await checkpoint()

            with pytest.raises(anyio.BusyResourceError):
                await anext(members)


async def test_a_batch_of_nothing_is_refused():
    """The size of a batch is at least one."""
    with pytest.raises(InvalidInputError, match="1 or more, not 0"):
        await anext(stream(file(1)).batches(0))


async def test_a_long_piece_is_not_decoded_at_once():
    """What a source hands out at once does not decide how much is in memory."""

    async def one_piece() -> AsyncIterator[bytes]:
        yield file(200_000)

    members = MemberStream(one_piece(), errors=ERRORS)

    assert "0" == (await anext(members)).amplitude_id
    assert 30_000 > members.rows
    assert 199_999 == len([member async for member in members])


@pytest.mark.big
async def test_memory_does_not_grow_with_the_file():
    """Four times the members take the same memory while they pass by."""

    async def peak(blocks: int) -> int:
        block = file(10_000).partition(b"\n")[2]

        async def source() -> AsyncIterator[bytes]:
            yield file(0)
            for _ in range(blocks):
                yield block

        tracemalloc.start()
        members = MemberStream(source(), errors=ERRORS)
        seen = sum([len(batch) async for batch in members.batches()])
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()

        assert blocks * 10_000 == seen

        return most

    small, large = await peak(10), await peak(40)

    # Batches and visits fall in and out of step, so not quite the same.
    assert large < 1.5 * small
    assert large < 16 * 1024 * 1024
