"""Readers of raw sources.

Comes in: where a source is. Goes out: its rows as text, numbered, with what is no row told apart.
Never: types or judges a value.
"""
