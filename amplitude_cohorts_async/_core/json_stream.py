"""
JSON that is long, cut off, or of an unexpected shape.

A long list is decoded one element at a time: decoding megabytes in one call holds
the interpreter, in a worker thread too; between two elements other tasks can run.
"""

from __future__ import annotations

import json
import re
from codecs import getincrementaldecoder
from collections.abc import Iterator, Mapping
from typing import cast

_PIECE = 64 * 1024

# Fewer characters than str.strip() takes for blanks.
_BLANK = " \t\n\r"
_BLANKS = f"[{_BLANK}]*"
_NEXT = re.compile(rf"{_BLANKS}([,\]]){_BLANKS}")
_MEMBER = re.compile(rf',{_BLANKS}"')

# A string that the end of the text cuts off is matched to the end, otherwise each
# quote in it would be tried again. The quantifier is possessive: no backtracking.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[\]{},]', re.DOTALL)
_CLOSING = {"{": "}", "[": "]"}
_DEEPEST = 200


def mapping_of(value: object) -> Mapping[str, object]:
    """Return *value* if it is an object, else an empty one."""
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def list_of(value: object) -> list[object]:
    """Return *value* if it is an array, else an empty one."""
    return cast("list[object]", value) if isinstance(value, list) else []


def strings_of(value: object) -> list[str]:
    """Return an array's items as text; nothing for another value."""
    return [str(item) for item in list_of(value)]


def whole_part(body: bytes) -> bytes:
    """
    Return the beginning of a cut document as a valid document.

    What is incomplete at the cut is left out; a body that is not JSON stays as it is.
    """
    text = body.decode("utf-8", "ignore")
    end, closing, at_end = 0, "", ""

    for token in _TOKEN.finditer(text):
        match token[0]:
            case "{" | "[":
                # The text is copied at each bracket; json.loads() fails at this depth
                # anyway.
                if len(closing) >= _DEEPEST:
                    return body
                closing = _CLOSING[token[0]] + closing
            case "}" | "]":
                closing = closing[1:]
            case ",":
                end, at_end = token.start(), closing
            case _:
                pass

    document = text[:end] + at_end

    try:
        json.loads(document)
    except (ValueError, RecursionError):
        return body

    return document.encode()


def opening_of(body: bytes, key: str) -> int | None:
    """
    Return the position after the bracket of the list that begins a document.

    None if the document has another shape, and has to be decoded as a whole.
    """
    shape = rf'{_BLANKS}\{{{_BLANKS}"{re.escape(key)}"{_BLANKS}:{_BLANKS}\['
    found = re.match(shape.encode(), body)

    return None if found is None else found.end()


def elements(body: bytes, start: int) -> Iterator[object]:
    """
    Yield the decoded elements of the list that begins at *start*, and check the rest.

    Raises `ValueError` if the document is not JSON, or not whole.
    """
    window = _Window(body, start)

    while not window.is_over:
        yield window.next_element()

    window.check_rest()


class _Window:
    """A part of the text, long enough for the current element."""

    def __init__(self, body: bytes, start: int) -> None:
        self._body = body
        self._position = start
        self._decode = getincrementaldecoder("utf-8")().decode
        self._scan = json.JSONDecoder().raw_decode
        self._text = ""
        self._index = 0

        while not self._text.strip(_BLANK) and self._lengthen():
            pass

        first = re.search(f"[^{_BLANK}]", self._text)
        self.is_over = first is not None and first[0] == "]"
        self._index = 0 if first is None else first.start() + self.is_over

    def next_element(self) -> object:
        while True:
            try:
                element, end = self._scan(self._text, self._index)
            except json.JSONDecodeError:
                if not self._lengthen():
                    raise
                continue

            follows = _NEXT.match(self._text, end)

            # An element that ends with the window may continue after it.
            if follows is not None and follows.end() < len(self._text):
                self._index = follows.end()
                self.is_over = follows[1] == "]"
                return element

            if not self._lengthen():
                raise ValueError("the list has no end")

    def check_rest(self) -> None:
        while self._lengthen():
            pass

        rest = self._text[self._index :].strip(_BLANK)

        if rest != "}":
            if not _MEMBER.match(rest):
                raise ValueError("the text after the list is no member")

            # The document without the list.
            json.loads("{" + rest.removeprefix(","))

    def _lengthen(self) -> bool:
        # Doubled each time, so that a long element is not scanned too often.
        size = max(_PIECE, len(self._text) - self._index)
        piece = self._body[self._position : self._position + size]
        self._position += len(piece)
        is_last = self._position >= len(self._body)
        self._text = self._text[self._index :] + self._decode(piece, is_last)
        self._index = 0

        return bool(piece)
