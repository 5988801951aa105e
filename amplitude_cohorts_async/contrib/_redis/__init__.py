"""The parts of the limiter that a fleet shares."""
