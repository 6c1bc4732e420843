"""The Attack page: how small a perturbation is enough to fool a network."""
