"""The `punctual` command: when and where stages run, and the status of the platform.

Comes in: the domains' schedules, a clock, command lines. Goes out: runs of the stages' own command
lines, and their ledger. Never: contains feature, training or serving logic; a stage runs as a
process, or is imported when its command is called.
"""
