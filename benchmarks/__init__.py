"""``python -m benchmarks.<name>``: each prints a table of medians and one JSON line."""
