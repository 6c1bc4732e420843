"""Runs: each run is a folder, a queue starts its training, and a worker process carries it out."""
