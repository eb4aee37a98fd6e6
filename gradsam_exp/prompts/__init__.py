"""This package holds the prompt strategies: they turn heatmaps into points, boxes and mask prompts.

`base` says what a strategy is and holds their registry (``pipeline``). The others hold some each: `foreground`
(points on the object), `background` (and points off it), `adaptive` (those only where a mask leaks), `regions`
(boxes, masks, grids), `peaks` (the heatmap's maxima), `reference` (yardsticks that ignore the heatmap).
"""
