"""This package holds the data sets (``data``) and what shapes are drawn on (``background``).

`base` says what a data set is; `shapes` draws the built-in one on `backgrounds` (`photos`, `dead_leaves`), and
`novel_shapes` others; `synthetic_shapes` reads the reference data set, `folder` your own, `given` single pictures;
`files` reads pictures for them, `truths` where the objects in these are. `voc`, `coco`, `oxford_pet`, `cub`,
`imagenet_s` and `bsds` read published data sets, `lists` and `coco_annotations` their lists and annotations,
`download` archives.
"""
