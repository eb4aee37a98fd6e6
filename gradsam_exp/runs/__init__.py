"""Runs on disk: this room writes, reads, finds, compares and pools them."""
