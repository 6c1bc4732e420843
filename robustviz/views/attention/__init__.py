"""Which pixels matter to a network, and who gets to touch them?"""
