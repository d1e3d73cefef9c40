"""The feature pipeline: raw rows become clean rows, events, feature tables and online rows.

Comes in: a domain's declarations, raw sources and a moment. Goes out: published tables, watermarks,
the registry. Never: trains, serves, or asks the clock.
"""
