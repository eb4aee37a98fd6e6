"""The classifier under study."""
