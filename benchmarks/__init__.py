"""Speed comparisons of robustviz with other libraries, run side by side in one process by `make
bench`. They are not part of the package.
"""
