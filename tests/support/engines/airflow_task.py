"""Airflow's part in the life of a task, in one process and without a database."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from importlib import import_module
from types import SimpleNamespace
from typing import Any, cast

# Airflow imports it when a trigger asks for a connection: on the event loop, where two
# threads at once would wait for each other's import.
import asgiref.sync  # noqa: F401
import attrs
from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import TaskDeferred
from airflow.triggers.base import BaseTrigger


class TaskState(dict[str, object]):
    """What is shared by the tries of a task."""

    def set(self, key: str, value: object, *, retention: timedelta) -> None:
        """Keep a value; for how long is not looked at."""
        assert retention > timedelta(0)
        self[key] = value


@attrs.define
class Task:
    """
    A task of one run.

    Attributes:
        state: What Airflow keeps of it between two tries.
        waits: The triggers that it was deferred by.
    """

    run_id: str = "manual__1"
    map_index: int = -1
    state: TaskState = attrs.field(factory=TaskState)
    waits: list[BaseTrigger] = attrs.field(factory=list)

    @property
    def context(self) -> Context:
        """What an operator is given of it."""
        names = SimpleNamespace(
            dag_id="nightly",
            run_id=self.run_id,
            task_id="export",
            map_index=self.map_index,
        )
        return cast(Context, {"ti": names, "task_state_store": self.state})

    def begin(self, operator: BaseOperator) -> object:
        """Make the first step of a try; return its result, or how it was deferred."""
        try:
            return operator.execute(self.context)
        except TaskDeferred as wait:
            return self._deferred(wait)

    def go_on(
        self, operator: BaseOperator, wait: TaskDeferred, event: Mapping[str, Any]
    ) -> object:
        """Make the step after a wait."""
        assert wait.method_name
        try:
            return operator.resume_execution(
                wait.method_name, {"event": event}, self.context
            )
        except TaskDeferred as another:
            return self._deferred(another)

    def run(self, operator: BaseOperator) -> Any:
        """Run one try to its end; return its result."""
        result = self.begin(operator)
        while isinstance(result, TaskDeferred):
            result = self.go_on(operator, result, event_of(result.trigger))

        return result

    def _deferred(self, wait: TaskDeferred) -> TaskDeferred:
        self.waits.append(wait.trigger)
        return wait


def event_of(trigger: BaseTrigger) -> Mapping[str, Any]:
    """Run a trigger as a triggerer does, which has its path and its words alone."""
    path, words = trigger.serialize()
    module, _, name = path.rpartition(".")
    again = getattr(import_module(module), name)(**words)

    async def first() -> Mapping[str, Any]:
        async for event in again.run():
            return cast(Mapping[str, Any], event.payload)
        raise AssertionError("a trigger ended without an event")

    return asyncio.run(first())
