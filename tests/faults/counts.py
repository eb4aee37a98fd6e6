"""How often a test repeats what can go wrong: a few times in the suite, many times in ``make soak``."""

from __future__ import annotations

import os
from typing import TypeVar

import pytest

T = TypeVar("T")
SOAKING = os.environ.get("GRADSAM_EXP_SOAK") == "1"
only_soaking = pytest.mark.skipif(not SOAKING, reason="minutes of CPU: make soak")
"""Marks what the main job, which has twenty minutes, leaves to ``make soak``."""


def soaked(few: T, many: T) -> T:
    """The first number in the suite, the second in ``make soak``."""
    return many if SOAKING else few
