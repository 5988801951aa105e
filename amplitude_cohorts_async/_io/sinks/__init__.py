"""Bytes on their way to a file with a name."""
