"""The Attention page: which pixels matter to a network, and which PART lets an attack change."""
