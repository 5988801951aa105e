"""
The core decides: values in, values out.

No clock, no chance, no I/O, no logging in here; time and chance are arguments.
"""
