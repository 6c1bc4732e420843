"""The first page: how a network is fooled."""
