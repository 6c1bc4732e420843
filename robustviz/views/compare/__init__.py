"""The Compare page: which networks withstand attacks, and at what cost in clean accuracy."""
