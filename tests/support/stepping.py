"""Something done to a coroutine at one of the moments when it gives way."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Stepped(Generic[T]):
    """
    Awaits a coroutine, and acts when it gives way for the *at*-th time.

    Attributes:
        steps: How often it gave way so far.
    """

    def __init__(
        self, work: Coroutine[Any, Any, T], *, at: int, act: Callable[[], object]
    ) -> None:
        self.steps = 0
        self._work = work
        self._at = at
        self._act = act

    def __await__(self) -> Generator[Any, Any, T]:
        inner = self._work.__await__()
        step: Callable[[], Any] = partial(next, inner)

        while True:
            try:
                wanted = step()
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]

            self.steps += 1
            if self.steps == self._at:
                self._act()

            try:
                got = yield wanted
            except BaseException as error:  # noqa: BLE001 - it is the coroutine's
                step = partial(inner.throw, error)
            else:
                step = partial(inner.send, got)
