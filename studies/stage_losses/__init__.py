"""The study asks how much mIoU each stage loses: the classifier, the heatmap, the prompt, the selection, SAM."""
