"""This package holds the mask selectors: they choose which of a segmenter's candidate masks are kept.

`base` says what a selector is and holds their registry (``selector``); those of `score` follow the segmenter's own
judgement, those of `agreement` the heatmap, the area or the truth.
"""
