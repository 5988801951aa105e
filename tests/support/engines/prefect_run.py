"""
A process that runs the flow of the recipe, as its own command line does.

Prefect keeps results here, as some do: a step must not get that of an earlier one.
"""

from __future__ import annotations

import asyncio
import sys

from .dying import arm
from .recipes import recipe

if __name__ == "__main__":
    arm()
    asyncio.run(recipe("prefect_flow").export(*sys.argv[1:]))
