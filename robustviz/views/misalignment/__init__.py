"""Part of the Features page: why images of a class leave their class under attack."""
