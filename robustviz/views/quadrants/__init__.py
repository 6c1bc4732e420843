"""The quadrant puzzle: training with a smaller radius in one quarter of the image."""
