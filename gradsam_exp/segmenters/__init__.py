"""Segmenters are promptable segmentation models: they encode images once, then answer prompts with masks.

They are found by name (``sam=compact``) in `gradsam_exp.segmenters.base.SEGMENTERS`; `base` says what a segmenter
is, `checkpoints` registers compact SAM and the official models.
"""
