"""How many features carry the answer?"""
