"""The command without its script: ``python -m amplitude_cohorts_async``."""

from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
