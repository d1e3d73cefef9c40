"""The inference pipeline: the champion's predictions, online and in batches, and their monitoring.

Comes in: the champion, online features or published tables, and requests. Goes out: answers, the
prediction log, batch files, reports. Never: fits or promotes a model, or writes a feature.
"""
