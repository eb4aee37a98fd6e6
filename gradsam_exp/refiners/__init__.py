"""Heatmaps that follow the image: a step between explaining and prompting."""
