"""The Contributions page: how many features carry a network's answer."""
