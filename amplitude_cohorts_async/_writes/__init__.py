"""Writes ids to cohorts in batches: uploads, membership updates, syncs."""
