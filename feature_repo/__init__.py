"""What the stages agree on, and all domain knowledge.

Comes in: the declarations of a domain (a folder here): raw sources, entities, feature views, labels, use cases.
Goes out: Feast definitions, and the same declarations as plain Python objects for the stages.
Never: imports a stage, computes anything, or runs anything on import.
"""
