"""The storage that stages share: tables, offline join, online records, models and predictions.

Comes in: rows with keys and two times, models, predictions. Goes out: the same data, at a pinned
version. Each package is imported through its `__init__` only. Never: knows a domain or a stage.
"""
