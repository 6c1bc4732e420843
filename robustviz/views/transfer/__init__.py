"""Does a trick for one network fool another?"""
