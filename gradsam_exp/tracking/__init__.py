"""Weights & Biases shows runs that are already safe on disk. Nothing in this room can cost an experiment.

Every run is written offline, into its own folder, and never waits for a server. Where there is a server and a
key, `upload` sends it on in a process of its own, for a limited time.
"""
