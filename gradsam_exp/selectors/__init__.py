"""Mask selectors choose which of the candidate masks that a segmenter offers are kept.

Each selector is a class that is found by name (``selector=predicted_iou``) in
`gradsam_exp.selectors.base.SELECTORS`.
"""
