"""How is a network fooled?"""
