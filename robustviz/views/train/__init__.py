"""The Train page: train a network with other settings."""
