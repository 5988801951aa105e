"""Makes clients of what a connection says."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping

from ... import CohortsClient
from ...errors import CohortsError, ConfigurationError
from ...limits import Limits
from ._sdk import BaseHook, Connection

__all__ = ("AmplitudeCohortsHook",)

_EXTRAS = ("app_id", "jobs", "limiter_url", "owner", "region")
_STORES = ("jobs", "limiter_url")


class AmplitudeCohortsHook(BaseHook):
    """
    Makes clients of what a connection says.

    Its login is the API key, its password the secret key. Its extra may have
    ``region``, ``limiter_url``, ``jobs``, ``app_id`` and ``owner``; its host is the URL
    of a server to use instead of the region's. What it does not say comes from the
    environment, as for ``CohortsClient.from_env()``.
    """

    conn_name_attr = "conn_id"
    default_conn_name = "amplitude_cohorts_default"
    conn_type = "amplitude_cohorts"
    hook_name = "Amplitude Cohorts"

    def __init__(self, conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.conn_id = conn_id

    def client(
        self, *, needs_job_store: bool = False, longest_wait: float | None = None
    ) -> CohortsClient:
        """
        Return a client, for ``async with``; not on an event loop.

        Args:
            needs_job_store: Whether what it spends has to outlive the task.
            longest_wait: Seconds that a request waits for the limits; a longer wait is a
                `QuotaWaitError` at once.

        Raises:
            ConfigurationError: The connection cannot work, or names no job store that
                outlives the task.
        """
        connection = self.get_connection(self.conn_id)

        return self._client_of(
            connection, needs_job_store=needs_job_store, longest_wait=longest_wait
        )

    async def aclient(self) -> CohortsClient:
        """Return a client, for ``async with``; on an event loop."""
        return self._client_of(await self.aget_connection(self.conn_id))

    def test_connection(self) -> tuple[bool, str]:
        """Return whether the usage can be read, and what it is; spends no export."""
        try:
            client = self.client()
            return True, asyncio.run(_usage_of(client))
        except CohortsError as error:
            return False, str(error)

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, object]:
        """Return how the form of a connection looks."""
        return {
            "hidden_fields": ["port", "schema"],
            "relabeling": {
                "login": "API key",
                "password": "Secret key",
                "host": "Server, if not the region's",
            },
            "placeholders": {
                "extra": json.dumps(
                    {"region": "us", "limiter_url": "postgresql://host/name"}
                )
            },
        }

    def _client_of(
        self,
        connection: Connection,
        *,
        needs_job_store: bool = False,
        longest_wait: float | None = None,
    ) -> CohortsClient:
        given: dict[str, object] = {
            "api_key": connection.login,
            "secret_key": connection.password,
            "base_url": connection.host,
            **self._extras(connection),
        }
        if needs_job_store:
            self._check_store(given)
        if longest_wait is not None:
            given["limits"] = Limits(max_wait=longest_wait)

        return CohortsClient.from_env(
            **{name: value for name, value in given.items() if value}
        )

    def _extras(self, connection: Connection) -> dict[str, object]:
        # Airflow's own reader takes what is no JSON as nothing.
        try:
            extras = json.loads(connection.extra or "{}")
        except ValueError:
            extras = None

        if not isinstance(extras, dict):
            # Without its text, which may hold a password.
            raise ConfigurationError(
                f"the extra of connection {self.conn_id} is no JSON object"
            )
        if unknown := extras.keys() - _EXTRAS:
            raise ConfigurationError(
                f"the extra of connection {self.conn_id} has {', '.join(sorted(unknown))}"
                f"; it may have {', '.join(_EXTRAS)}"
            )

        return extras

    def _check_store(self, given: Mapping[str, object]) -> None:
        """Raise if what a task spends would be kept in the memory of its process."""
        named = any(
            given.get(each) or os.environ.get(f"AMPLITUDE_{each.upper()}")
            for each in _STORES
        )

        if not named:
            raise ConfigurationError(
                f"connection {self.conn_id} names no job store, and a task's memory ends "
                f"with it: give its extra a limiter_url or jobs that all workers share"
            )


async def _usage_of(client: CohortsClient) -> str:
    async with client:
        usage = await client.get_usage()

    if usage.limit is None:
        return f"{usage.used} exports are spent this month, and the plan has no limit"

    return f"{usage.used} of {usage.limit} exports are spent this month"
