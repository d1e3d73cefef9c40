"""How predictions hold up: fresh features, drift of what comes in and goes out, and the score once
labels are known.

Comes in: the prediction log, the model's reference rows, labels and watermarks. Goes out: a report
with plots. Never: decides to train again, or hides that there are too few rows to tell.
"""
