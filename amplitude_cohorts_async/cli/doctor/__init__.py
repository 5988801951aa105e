"""
The command doctor: what works, what does not, and what to do.

`machine` looks at this machine, `command` asks the service as well, and `probe` finds
out, for `doctor --probe`, what the service does.
"""

from .command import doctor

__all__ = ("doctor",)
