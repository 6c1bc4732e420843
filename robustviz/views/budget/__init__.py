"""The Budget page: why robustness can cost accuracy."""
