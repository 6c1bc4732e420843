"""Do attacked images stay with their class?"""
