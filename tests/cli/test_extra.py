"""The command without its extra."""

from __future__ import annotations

import sys

import pytest

from amplitude_cohorts_async import cli


@pytest.mark.parametrize("missing", ["typer", "rich", "platformdirs"])
def test_the_missing_extra_is_named(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Whoever installed without it reads what to install, and no traceback."""
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == missing else 1)

    assert 2 == cli.main(["list"])
    assert "pip install 'amplitude-cohorts-async[cli]'" in capsys.readouterr().err
    assert "amplitude_cohorts_async.cli" in sys.modules
