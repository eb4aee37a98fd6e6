"""torchmetrics with per-image values."""
