"""All domain knowledge: a folder for each domain, and Feast's configuration.

Comes in: what a domain knows of its data. Goes out: declarations that the stages read.
Never: imports a store or a stage, or runs anything on import.
"""
