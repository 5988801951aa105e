"""
Decisions without side effects: values in, values out.

No clock, random source, I/O or logging in here; time and jitter are arguments.
"""
