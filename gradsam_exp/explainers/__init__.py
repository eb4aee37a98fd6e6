"""Where does the classifier look? Heatmaps from a network."""
