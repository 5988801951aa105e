"""The filters that file bytes pass: the same result for any split of the bytes."""

from __future__ import annotations

import gzip
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplitude_cohorts_async._core.csvtext import Malformed
from amplitude_cohorts_async._io.sinks.filters import (
    Deflate,
    DetectGzip,
    Filter,
    Inflate,
    Tee,
    TextCheck,
)

TEXTS = st.lists(st.binary(max_size=200), max_size=4)


class Heap:
    """The last filter: keeps all, and remembers the largest piece."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.largest = 0
        self.is_finished = False
        self.is_discarded = False

    def write(self, data: bytes | memoryview) -> None:
        self.data.extend(data)
        self.largest = max(self.largest, len(data))

    def finish(self) -> None:
        assert not self.is_finished
        self.is_finished = True

    def discard(self) -> None:
        self.is_discarded = True


def write_split(
    chain: Filter | DetectGzip, data: bytes, *, pieces: int, seed: int = 0
) -> None:
    """Write *data* cut at random, from a buffer that is used again."""
    chance = random.Random(seed)
    cuts = sorted(chance.randint(0, len(data)) for _ in range(pieces - 1))
    buffer = bytearray(len(data))

    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        buffer[: end - start] = data[start:end]
        chain.write(memoryview(buffer)[: end - start])
        buffer[: end - start] = b"?" * (end - start)


@given(TEXTS, st.integers(1, 20), st.integers())
def test_gzip_in_any_split(texts: list[bytes], pieces: int, seed: int) -> None:
    """Members of gzip, one after another, are one text, wherever the bytes are cut."""
    heap = Heap()
    chain = Inflate(heap)
    data = b"".join(map(gzip.compress, texts)) or gzip.compress(b"")
    write_split(chain, data, pieces=pieces, seed=seed)
    chain.finish()

    assert b"".join(texts) == heap.data
    assert heap.is_finished


@given(st.binary(min_size=1, max_size=300), st.data())
def test_a_torn_or_damaged_gzip_never_finishes_as_another(
    text: bytes, data: st.DataObject
) -> None:
    """Whatever is cut off or changed, what finishes is the text that was meant."""
    whole = bytearray(gzip.compress(text, mtime=0))
    at = data.draw(st.integers(0, len(whole) - 1))

    if data.draw(st.booleans()):
        del whole[at:]
    else:
        whole[at] ^= data.draw(st.integers(1, 255))

    heap = Heap()
    chain = Inflate(heap)

    try:
        chain.write(bytes(whole))
        chain.finish()
    except Malformed:
        assert not heap.is_finished
    else:
        assert text == heap.data


def test_a_bomb_comes_in_pieces() -> None:
    """A thousandfold text is handed on in pieces of a bounded size."""
    heap = Heap()
    chain = Inflate(heap)
    chain.write(gzip.compress(bytes(16 << 20)))
    chain.finish()

    assert 16 << 20 == len(heap.data)
    assert 1 << 20 >= heap.largest


@given(st.binary(max_size=500), st.integers(1, 9), st.integers())
def test_deflate_undoes_inflate(text: bytes, pieces: int, seed: int) -> None:
    """What is compressed here is the text again."""
    heap = Heap()
    chain = Deflate(heap)
    write_split(chain, text, pieces=pieces, seed=seed)
    chain.finish()

    assert text == gzip.decompress(heap.data)


@given(st.binary(max_size=300), st.booleans(), st.integers(1, 9), st.integers())
def test_bytes_tell_what_they_are(
    text: bytes, is_gzip: bool, pieces: int, seed: int
) -> None:
    """Compressed bytes are known by their first two, however they are cut."""
    heap = Heap()
    chosen: list[bool] = []

    def choose(is_gzip: bool) -> Filter:
        chosen.append(is_gzip)
        return heap

    chain = DetectGzip(choose)
    data = gzip.compress(text) if is_gzip else b"a" + text
    write_split(chain, data, pieces=pieces, seed=seed)
    chain.finish()

    assert [is_gzip] == chosen
    assert data == heap.data
    assert heap.is_finished


@pytest.mark.parametrize("data", [b"", b"a", b"\x1f", b"plain"])
def test_plain_bytes_need_an_end(data: bytes) -> None:
    """Plain bytes that came without a length may be a part of any longer text."""
    heap = Heap()
    chain = DetectGzip(lambda _: heap)
    chain.write(data)

    with pytest.raises(Malformed, match="without a length"):
        chain.finish(is_delimited=False)
    assert not heap.is_finished


@pytest.mark.parametrize("blank", [b"", b"\n", b" \r\n\t", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("start", [b"<html>", b"{}", b"[]", b"\x1f\x8b\x08"])
@pytest.mark.parametrize("size", [1, 2, 99])
def test_what_is_no_text_of_members(blank: bytes, start: bytes, size: int) -> None:
    """A page, JSON, or something still compressed is known below any blank lines."""
    heap = Heap()
    chain = TextCheck(heap)
    data = blank + start

    with pytest.raises(Malformed):
        for at in range(0, len(data), size):
            chain.write(data[at : at + size])
        chain.finish()
    assert not heap.is_finished


@given(st.binary(), st.integers(1, 9), st.integers())
def test_text_passes_unchanged(text: bytes, pieces: int, seed: int) -> None:
    """What may be members goes on byte for byte; nothing at all does not."""
    heap = Heap()
    chain = TextCheck(heap)
    data = b'"user_id"\n' + text
    write_split(chain, data, pieces=pieces, seed=seed)
    chain.finish()
    assert data == heap.data

    with pytest.raises(Malformed, match="empty"):
        TextCheck(Heap()).finish()


NO_HEADERS = {
    "an error of a proxy": b"upstream connect error or disconnect/reset\n",
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(99),
    "a program": b"\x7fELF" + bytes(99),
    "a letter": b"a",
    "another table": b"name,age\nann,7\n",
    "a column too little": b"user_ids\nann\n",
    "no end of lines": b"user_id\rann\r",
    "a quote never closed": b'"user_id\nann\n',
    "a quote that ends early": b'"user_id"x\nann\n',
    "a blank line first": b"\nuser_id\nann\n",
}


@pytest.mark.parametrize("size", [1, 7, 999])
@pytest.mark.parametrize("name", NO_HEADERS)
def test_what_begins_without_a_header_of_members(name: str, size: int) -> None:
    """No format is made of it, whatever the pieces it comes in."""
    chain = TextCheck(Heap())
    data = NO_HEADERS[name]

    with pytest.raises(Malformed):
        for at in range(0, len(data), size):
            chain.write(data[at : at + size])
        chain.finish()


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\nann,\r\n"])
@pytest.mark.parametrize(
    "header",
    [
        b"user_id,plan",
        b'"amplitude_id","user_id"',
        b"\tgroup_value,\tplan",
        b'\xef\xbb\xbf"plan","\tuser_id"',
    ],
)
@pytest.mark.parametrize("size", [1, 7, 999])
def test_all_headers_of_members(header: bytes, end: bytes, size: int) -> None:
    """Each name of ids will do, in any place, with the TAB of group cohorts, too."""
    heap = Heap()
    chain = TextCheck(heap)
    data = header + end

    for at in range(0, len(data), size):
        chain.write(data[at : at + size])
    chain.finish()

    assert (data, True) == (heap.data, chain.is_settled)


def test_the_header_is_not_asked_for_where_none_is_promised() -> None:
    """The third-party description does not say what the lines of a file are."""
    chain = TextCheck(Heap(), has_header=False)
    chain.write(b"ann\nbob\n")
    chain.finish()

    assert chain.is_settled


def test_the_size_of_a_text_is_bounded() -> None:
    """The last byte that is allowed is taken, the next one is not."""
    chain = TextCheck(Heap(), max_size=12)
    chain.write(b"user_id\n")
    chain.write(b"ann\n")

    with pytest.raises(Malformed, match="more than 12 bytes"):
        chain.write(b"b")


def test_both_finish_in_order() -> None:
    """The second filter does not finish when the first one finds fault."""
    heap = Heap()
    both = Tee(Inflate(TextCheck()), heap)
    both.write(gzip.compress(b"user_id")[:-1])

    with pytest.raises(Malformed):
        both.finish()
    assert not heap.is_finished


@pytest.mark.parametrize(
    "build",
    [
        Inflate,
        Deflate,
        TextCheck,
        lambda heap: Tee(TextCheck(), heap),
        lambda heap: Tee(heap, TextCheck()),
    ],
)
def test_discarding_reaches_the_last(build: object) -> None:
    """Whoever gives up tells the last filter, at any time, and more than once."""
    heap = Heap()
    chain = build(heap)  # type: ignore[operator]
    chain.discard()
    chain.discard()

    assert heap.is_discarded


def test_sniffing_nothing_can_be_discarded() -> None:
    """Before the first byte there is nothing to tell."""
    DetectGzip(lambda _: Heap()).discard()


@given(st.integers(0, 3_000), st.integers(1, 20), st.integers())
def test_zeros_behind_gzip_are_taken(count: int, pieces: int, seed: int) -> None:
    """They fill up a block, as gzip(1) has it, however they are split."""
    heap = Heap()
    chain = DetectGzip(lambda _: Inflate(heap))
    data = gzip.compress(b"members") + bytes(count)
    write_split(chain, data, pieces=pieces, seed=seed)
    chain.finish()

    assert b"members" == heap.data


@pytest.mark.parametrize("more", [b"\0x", b"\0\x1f\x8b", b"x\0", b"\0\0 "])
def test_anything_else_behind_gzip_is_refused(more: bytes) -> None:
    """Zeros end a file: nothing comes after them."""
    chain = DetectGzip(lambda _: Inflate(Heap()))

    with pytest.raises(Malformed, match="more follows its end"):
        chain.write(gzip.compress(b"members") + more)
