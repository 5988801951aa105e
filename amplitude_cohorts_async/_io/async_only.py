"""Objects that are used with ``async``: other uses raise an error that says how."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class AsyncOnly:
    """
    Base of what is used with ``async for`` or ``async with``.

    Python's own errors for a forgotten ``async`` name a class, and not what to write.
    """

    _usage = ""

    # Type checkers are to refuse these uses, as if the methods were not there.
    if not TYPE_CHECKING:

        def __iter__(self) -> NoReturn:
            self._refuse()

        def __await__(self) -> NoReturn:
            self._refuse()

        def __enter__(self) -> NoReturn:
            self._refuse()

        def __exit__(self, *_: object) -> NoReturn:
            self._refuse()

    def _refuse(self) -> NoReturn:
        raise TypeError(f"write `{self._usage}`")


class AsyncContext(AsyncOnly, AbstractAsyncContextManager[T]):
    """An async context manager that says how it is used."""

    def __init__(self, context: AbstractAsyncContextManager[T], usage: str) -> None:
        self._context = context
        self._usage = usage

    async def __aenter__(self) -> T:
        return await self._context.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return await self._context.__aexit__(kind, error, trace)

    if not TYPE_CHECKING:

        def __aiter__(self) -> NoReturn:
            self._refuse()


def async_context(
    usage: str,
) -> Callable[
    [Callable[P, AsyncGenerator[T]]], Callable[P, AbstractAsyncContextManager[T]]
]:
    """Return `asynccontextmanager`, but with an error that shows *usage*."""

    def decorate(
        function: Callable[P, AsyncGenerator[T]],
    ) -> Callable[P, AbstractAsyncContextManager[T]]:
        """Return the function that makes the context."""
        make = asynccontextmanager(function)

        @wraps(function)
        def enter(*args: P.args, **kwargs: P.kwargs) -> AbstractAsyncContextManager[T]:
            """Return the context, not entered yet."""
            return AsyncContext(make(*args, **kwargs), usage)

        return enter

    return decorate
