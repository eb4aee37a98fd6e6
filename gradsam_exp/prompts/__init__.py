"""Prompt strategies turn a heatmap into what a segmenter is asked: points, boxes and mask prompts.

Each strategy is a class that is found by name (``pipeline=fg``) in `gradsam_exp.prompts.base.STRATEGIES`; `base`
says what a strategy is, each of the other modules holds some.
"""
