"""What is used of Airflow."""

from __future__ import annotations

from ...errors import MissingExtraError

try:
    from airflow.sdk import (
        BaseHook,
        BaseOperator,
        BaseSensorOperator,
        Connection,
        Context,
    )
    from airflow.sdk.configuration import conf
    from airflow.sdk.exceptions import AirflowFailException, TaskDeferralTimeout
    from airflow.triggers.base import BaseTrigger, TriggerEvent
except ModuleNotFoundError as _error:
    raise MissingExtraError("a provider of Airflow", extra="airflow") from _error

__all__ = (
    "AirflowFailException",
    "BaseHook",
    "BaseOperator",
    "BaseSensorOperator",
    "BaseTrigger",
    "Connection",
    "Context",
    "TaskDeferralTimeout",
    "TriggerEvent",
    "conf",
)
