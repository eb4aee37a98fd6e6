"""Metrics: numbers that say how good prompts, masks, predictions and heatmaps are, one for each image.

`gradsam_exp.metrics.base` says what a metric is and holds their registry; every other module defines one family.
"""
