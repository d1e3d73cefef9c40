"""Benchmarks of the platform against its alternatives.

Comes in: cases with generated data, the same for all contenders. Goes out: tables and, as the last
line, one JSON object. Never: is imported by the platform.
"""
