"""The broker of the recipe, for workers that may die and that tell their errors."""

from __future__ import annotations

import os
from pathlib import Path

from taskiq import TaskiqMessage, TaskiqMiddleware, TaskiqResult

from amplitude_cohorts_async.errors import CohortsError

from .dying import arm
from .recipes import recipe

ERROR = "TASKIQ_ERROR"


class _Told(TaskiqMiddleware):
    """Write down the error that an export ends with."""

    def on_error(
        self,
        message: TaskiqMessage,
        result: TaskiqResult[object],
        exception: BaseException,
    ) -> None:
        """Write its name."""
        if isinstance(exception, CohortsError):
            Path(os.environ[ERROR]).write_text(type(exception).__name__)


if path := os.environ.get(ERROR):
    arm()
    broker = recipe("taskiq_app").broker.with_middlewares(_Told())
