"""What every test may use, and what watches every test; see `support`."""

pytest_plugins = [
    "pytester",
    "amplitude_cohorts_async.testing.pytest_plugin",
    "support.guards",
    "support.canary",
    "support.home",
    "support.servers",
    "support.signals",
    "support.emulation",
    "support.exporting",
    "support.tracing",
]
