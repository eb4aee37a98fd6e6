"""How weights are made: classifiers, promptable segmenters, and the scenes they learn from."""
