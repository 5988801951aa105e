"""Sinks: bytes into a file of one of the target formats."""
