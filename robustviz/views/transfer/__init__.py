"""The Transfer page: whether images attacked on one network fool other networks too."""
