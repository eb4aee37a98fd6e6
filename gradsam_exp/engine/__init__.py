"""One run: from a configuration to per-image results, and what runs share."""
