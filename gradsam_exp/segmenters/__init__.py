"""This package holds the segmenters: they encode images once, then answer prompts with masks.

`base` says what a segmenter is and holds their registry (``sam``); `checkpoints` finds the weights of compact
SAM and of the official models; `sam` runs them, with `encoder` and `decoder`; `compact` is the small
architecture; `tta` is test-time augmentation; `cached` keeps masks for later.
"""
