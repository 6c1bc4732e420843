"""An attack that may change only the pixels that the user paints."""
