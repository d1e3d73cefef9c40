"""Raw rows become clean rows: typed, deduplicated, cleaned and validated; nothing is dropped
silently.

Comes in: a source's raw rows. Goes out: clean rows, the quarantine and a report.
Never: says when a row was known; events do.
"""
