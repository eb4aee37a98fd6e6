"""The study asks which metric of a heatmap predicts the IoU of the mask that the chain makes of it."""
