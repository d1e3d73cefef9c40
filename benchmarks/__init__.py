"""What the platform costs, measured beside what one would otherwise use.

Comes in: cases of made data, the same for all contenders. Goes out: a table and, as the last line,
one JSON object. Never: is imported by the platform.
"""
