"""Readers of raw sources.

Comes in: the location of a source. Goes out: its rows as text, numbered, and the lines that are not
rows. Never: types or validates a value.
"""
