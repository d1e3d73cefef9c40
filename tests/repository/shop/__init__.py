"""A domain for tests, unlike flights: daily sales of a few shops, a daily grid, a regression.

Comes in: `raw/sales.csv` of the data folder. Goes out: the declarations that the stages read.
Never: anything about flights.
"""
