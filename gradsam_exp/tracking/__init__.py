"""This package logs runs to Weights & Biases, offline first; its errors are warnings and never fail a run.

Every run is written offline, into its own folder, and never waits for a server. Where there is a server and a
key, `upload` sends it on in a process of its own, for a limited time.
"""
