"""The class cards on the Compare page: what the runs of a whole class show together."""
