"""
What every engine needs to be held to the same scenes.

`engine.Engine` is what a new engine subclasses; `tests/engines/conformance` has the
scenes.
"""
