"""The study asks whether heatmaps depend on what the classifier has learned (Adebayo et al., NeurIPS 2018)."""
