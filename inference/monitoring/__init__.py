"""Monitoring of predictions: freshness, data drift, prediction drift and the live score.

Comes in: the prediction log, the model's reference rows, labels and watermarks. Goes out: a report
with plots. Never: starts a training, or judges drift or score from too few rows.
"""
