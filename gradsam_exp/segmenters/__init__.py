"""This package holds the segmenters: they encode images once, then answer prompts with masks.

`base` says what a segmenter is and holds their registry (``sam``); `batched` decodes queries of several images
together; `checkpoints` finds the weights of compact SAM and of the official models, and `sam` runs these, with
`encoder` and `decoder`; `compact` and `mobile` are small architectures; `hf` runs what transformers has; `grabcut`
and `unsegmented` need no network and share `pixelwise`; `tta` is test-time augmentation; `cached` keeps masks for
later.
"""
