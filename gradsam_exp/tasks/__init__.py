"""What ``run.py`` can do: one module for each ``task``."""
