"""The prediction API over HTTP: requests in, logged predictions out, and a client for it.

Comes in: typed requests. Goes out: predictions, the model card, health.
Never: predicts by itself; `inference.predict` does.
"""
