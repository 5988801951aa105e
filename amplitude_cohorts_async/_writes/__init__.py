"""Writes: ids, however many, as batches that can be resumed."""
