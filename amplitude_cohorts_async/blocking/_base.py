"""What the generated client and job have beside their methods."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn, Self

from .._client import CohortsClient as AsyncClient
from .._config import SECRETS
from .._core.secret import hidden
from .._exports.job import ExportJob as AsyncExportJob
from ._arguments import refuse_session
from ._bridge import Bridge
from ._calls import HookRelay


class BlockingClient:
    """Base of the client: it is entered and closed, and neither pickled nor awaited."""

    _bridge: Bridge

    @classmethod
    def _from_env(cls, overrides: dict[str, object]) -> Self:
        # The locals of this frame, and of its caller's, are seen by who shows a
        # traceback with them.
        for name in SECRETS & overrides.keys():
            overrides[name] = hidden(overrides[name])

        refuse_session(overrides.get("session"))
        relay = HookRelay.of(overrides.get("hook"))

        if relay.hook is not None:
            overrides["hook"] = relay.hook

        bridge = Bridge(AsyncClient.from_env(**overrides), relay)
        client = cls.__new__(cls)
        client._bridge = bridge  # noqa: SLF001 - in place of the constructor

        return client

    def __repr__(self) -> str:
        # Asked before there is a client, too: by a debugger, or a traceback.
        bridge: Bridge | None = vars(self).get("_bridge")

        return repr(bridge) if bridge else "<CohortsClient of nothing yet>"

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            "a CohortsClient holds keys and connections, so it is neither pickled nor "
            "copied; create one in each process, as by CohortsClient.from_env()"
        )

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        # Not there if the constructor refused an argument.
        bridge: Bridge | None = vars(self).get("_bridge")

        if bridge is not None and bridge.is_open:
            _warn(
                f"{self!r} was never closed: write `with CohortsClient(...) as client:`, "
                f"or call `client.close()`",
                ResourceWarning,
                source=self,
            )
        if bridge is not None:
            bridge.drop()

    def __enter__(self) -> Self:
        self._bridge.call().run(self._bridge.client.__aenter__)

        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bridge.close()

    async def __aenter__(self) -> NoReturn:
        raise TypeError(
            "write `with CohortsClient(...) as client:`, or import CohortsClient from "
            "amplitude_cohorts_async for `async with`"
        )

    async def __aexit__(self, *_: object) -> None:
        """Is never reached."""


class BlockingJob:
    """Base of the job, which may be made before a fork."""

    def __init__(self, bridge: Bridge, job: AsyncExportJob) -> None:
        self._bridge = bridge
        self._portal = bridge.portal
        self._async_job = job
        self.request_id: str = job.request_id
        self.cohort_id: str | None = job.cohort_id

    def __repr__(self) -> str:
        return repr(self._async_job)

    @property
    def _job(self) -> AsyncExportJob:
        if self._portal is not self._bridge.portal:
            token, client = self._async_job.token, self._bridge.client
            self._async_job = self._bridge.call().run_sync(client.resume_export, token)
            self._portal = self._bridge.portal

        return self._async_job
