"""The parts of `contrib.redis`."""
