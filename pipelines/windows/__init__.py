"""Computes feature rows from events on a grid of times: sliding windows and the latest event.

Comes in: versions of events with their two times. Goes out: SQL that gives feature rows.
Never: runs that SQL, or publishes rows.
"""
