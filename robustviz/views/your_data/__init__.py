"""The page Your data: add pictures, data sets and networks of one's own."""
