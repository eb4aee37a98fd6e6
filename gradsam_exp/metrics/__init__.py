"""This package holds the metrics: they say how good prompts, masks, predictions and heatmaps are, image by image.

`base` says what a metric is and holds their registry (``metrics``); every other module defines one family.
"""
