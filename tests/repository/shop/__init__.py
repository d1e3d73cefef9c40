"""A throw-away domain for tests: daily sales of a few shops, other entities, another grid, a number
to predict.

Comes in: `raw/sales.csv` of the data folder. Goes out: what the stages read. Never: anything about
flights.
"""
