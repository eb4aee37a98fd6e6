"""Weights & Biases: a view of runs that are already safe on disk. Nothing here can cost an experiment.

Every run is written offline, into its own folder, and never waits for a server. Where there is a server and a
key, `upload` sends it on in a process of its own, for a limited time.
"""
