"""What do the runs of a whole class say together?"""
