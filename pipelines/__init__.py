"""The feature pipeline: raw rows become clean rows, events, feature tables and online rows.

Comes in: a domain's declarations, its raw sources and a time. Goes out: published tables, online
records, the Feast registry. Never: trains, serves, or reads the system clock.
"""
