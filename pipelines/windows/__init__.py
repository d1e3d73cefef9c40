"""Feature rows from events: sliding windows and the latest event, on a grid.

Comes in: versions of events with their two times. Goes out: SQL that gives feature rows.
Never: runs it, or publishes anything.
"""
