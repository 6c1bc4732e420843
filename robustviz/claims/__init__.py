"""Tests whether what papers claim is seen here. Each claim is a file that was written before its
runs were made; the verdict is computed from the runs.
"""
