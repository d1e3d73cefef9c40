"""The training pipeline: makes a training set; trains, evaluates, gates and registers a model.

Comes in: published tables, a use case's declaration and a time. Goes out: a model version with
its card, or a refusal. Never: reads raw data, serves, or reads the system clock.
"""
