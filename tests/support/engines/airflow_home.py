"""
Where Airflow's modules find their settings when they are imported by a test.

Imported before they are: Airflow makes a folder of logs in its home at that moment.
"""

from __future__ import annotations

import atexit
import os
from tempfile import TemporaryDirectory

_folder = TemporaryDirectory(prefix="airflow-")
atexit.register(_folder.cleanup)

os.environ.update(
    {
        "AIRFLOW_HOME": _folder.name,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        # What is deferred is due when it says so.
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "0",
    }
)
