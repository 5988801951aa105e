"""The parts of `contrib.postgres`."""
