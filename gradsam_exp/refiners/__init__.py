"""This package holds the refiners: they make heatmaps follow the image's edges, between explaining and prompting.

`base` says what a refiner is and holds their registry (``refine``); `edges` has a guided filter and a random
walker, `superpixels` means over regions of like colours.
"""
