"""
From ids, however many, to batches on the wire that can be resumed.
"""
