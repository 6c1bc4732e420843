"""Does what the papers say hold here?"""
