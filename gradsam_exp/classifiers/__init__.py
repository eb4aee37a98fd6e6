"""This package holds the classifiers under study: networks that map images to class logits.

`base` says what a source of classifiers is and holds their registry (``model.name``); `checkpoints` is the source
for what ``task=train`` leaves; `classifier` has the network, and `transform` what an image goes through before it.
"""
