"""
Destinations: where an export goes that is no file of this machine.

An address, as in "s3://bucket/members.csv", is an `ObjectDestination`. Any other place
is an object of your own that has what `Destination` says: `location`, `write()`, `tag()`.
"""

from ._io.sinks.destination import Destination, ObjectDestination

__all__ = ("Destination", "ObjectDestination")
