"""The Loss page: loss surfaces, soft labels, input gradients and curvature."""
