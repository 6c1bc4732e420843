"""Ours against its peers, side by side in one process. `make bench` runs them; nothing here is part
of the package.
"""
