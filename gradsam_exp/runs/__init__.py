"""Runs on disk: written, read, found, compared and pooled."""
