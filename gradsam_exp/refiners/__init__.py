"""This package holds the refiners: they make heatmaps follow the image's edges, between explaining and prompting.

`base` says what a refiner is and holds their registry (``refine``); `edges` has a guided filter and a random
walker, `crf` a fully connected CRF, `segments` the mean heat of a segmenter's masks, `superpixels` that of regions
of like colours, and `affinity` spreads heat along a transformer's attention.
"""
