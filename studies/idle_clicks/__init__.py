"""The study asks whether a segmenter loses by background points because of how it was trained.

``docs/background-points.md`` discusses what it finds.
"""
