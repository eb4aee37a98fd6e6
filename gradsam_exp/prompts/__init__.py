"""This package holds the prompt strategies: they turn heatmaps into points, boxes and mask prompts.

`base` says what a strategy is and holds their registry (``pipeline``), `thresholds` what warm and cold pixels are.
The others hold some each: `foreground` (points on the object), `background` (and points off it), `adaptive`
(those only where a mask leaks), `regions` (boxes, masks, grids), `peaks` (the heatmap's maxima), `reference` and
`robot_user` (yardsticks that ignore the heatmap). `components`, `warm_points`, `clip_surgery`, `subsets`,
`sam_refiner`, `persam`, `everything` and `gensam` have what others published.
"""
