"""Where stages meet: tables, offline join, online records, models and predictions, each in a room.

Comes in: rows with keys and two times, models, predictions. Goes out: the same, pinned and read
fast. A room is imported through its `__init__` only. Never: knows a domain or a stage.
"""
