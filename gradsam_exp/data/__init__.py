"""Data sets and what they are drawn on; one registry each for ``data`` and ``background``."""
