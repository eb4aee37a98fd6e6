"""The tasks that ``run.py`` can carry out, one module for each."""
