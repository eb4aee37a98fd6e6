"""The engine makes one run: from a configuration to per-image results; it keeps what runs share."""
