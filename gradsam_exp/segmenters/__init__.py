"""Promptable segmentation models."""
