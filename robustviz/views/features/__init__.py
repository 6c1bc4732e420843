"""The Features page: where clean and attacked images lie in feature space."""
