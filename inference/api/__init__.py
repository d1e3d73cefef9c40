"""The HTTP prediction API and a client for it.

Comes in: typed requests. Goes out: logged predictions, the model card, health.
Never: computes a prediction; `inference.predict` does.
"""
