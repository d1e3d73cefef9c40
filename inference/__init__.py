"""The inference pipeline: the champion's predictions, online and in batches, and how they hold up.

Comes in: the champion, online features or published tables, and requests. Goes out: answers, the
prediction log, batch files, reports. Never: fits, promotes, or writes a feature.
"""
