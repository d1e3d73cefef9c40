"""Types, deduplicates, cleans and validates raw rows; every rejected row is reported.

Comes in: a source's raw rows. Goes out: clean rows, the quarantine and a report.
Never: decides when a row became known; events do.
"""
