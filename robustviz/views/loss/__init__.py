"""What changes when the target is less sure?"""
