"""A name for plain values that is the same on every machine."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest(content: Any, *, size: int = 8) -> str:
    """``size`` bytes of BLAKE2 of the values' JSON, in hexadecimal."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()
