"""Which quarter of an image may an attacker use?"""
