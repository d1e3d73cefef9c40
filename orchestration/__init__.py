"""The `punctual` command: when and where stages run, and how the platform is doing.

Comes in: the domains' schedules, a clock, what a person types. Goes out: runs of the stages' own
command lines, and their ledger. Never: holds feature, training or serving logic; a stage is started
as a process, or imported when it is asked for.
"""
