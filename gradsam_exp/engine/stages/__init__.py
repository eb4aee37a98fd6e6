"""Stages make what runs share, a module for each kind of thing: images, heatmaps, their quality, embeddings.

They are modules of their own so that an edit in one makes only what depends on it again.
"""
