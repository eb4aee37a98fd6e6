"""This module holds what the jobs of this process share: the program's only global state."""

from gradsam_exp.engine.session import Session

SESSION = Session()
"""Read as ``process.SESSION``: who runs the program twice in one process gives it a new one."""
