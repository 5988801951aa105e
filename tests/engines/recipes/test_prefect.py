"""The flow of Prefect's recipe, with a server of its own."""

# ruff: noqa: E402 - what it needs may be missing

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from support.requirements import require

require("prefect")

from amplitude_cohorts_async.jobs import JobRecord
from support.engines.dying import Moment
from support.engines.engine import Place
from support.engines.scene import Scene
from support.engines.service import Service
from support.ports import LOOPBACK, await_port, free_ports

pytestmark = pytest.mark.slow
