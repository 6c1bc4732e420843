"""What is kept, and who is at work: a run is a folder, a queue starts it, a worker trains it."""
