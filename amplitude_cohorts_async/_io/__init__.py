"""
The only place that waits for the outside world.
"""
