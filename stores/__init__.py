"""How features of any domain are kept, joined as-of, materialized and read; the Feast plug-ins are here.

Comes in: rows with keys and two times. Goes out: training rows, online rows, and the manifests that pin them.
Never: knows a domain or a stage.
"""
