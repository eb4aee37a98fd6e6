"""This package holds the explainers: they turn images into heatmaps of what a classifier looks at.

`base` says what an explainer is and holds their registry (``explainer``). The others are sorted by what they look
at: `gradient` (a layer's gradients), `activation` (a layer's activations), `perturbation` (what is lost without a
part), `attribution` (the input's gradients), `attention` (a transformer's attention), `several` (other
explainers). They share `layers` (finding, checking and recording layers), `scores` (the number that is explained),
`projection` (principal components) and `suffix` (running the end of a network).
"""
