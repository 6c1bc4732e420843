"""Part of the Features page: why images of a class get misclassified."""
