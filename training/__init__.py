"""The training pipeline: a point-in-time training set becomes an evaluated, gated, registered
model.

Comes in: published tables, a use case's declaration and a moment. Goes out: a model version with
its card, or a refusal. Never: reads raw data, serves, or asks the clock.
"""
