"""
What every test may use, and what watches every test; see `support`.
"""

pytest_plugins = [
    "pytester",
    "support.guards",
    "support.canary",
    "support.servers",
    "support.emulation",
]
