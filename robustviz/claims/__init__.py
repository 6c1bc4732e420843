"""Does what a paper says hold here? Each claim is a file that was written before its runs; the
verdict is computed from them.
"""
