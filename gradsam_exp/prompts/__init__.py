"""Prompt strategies: what SAM is asked."""
