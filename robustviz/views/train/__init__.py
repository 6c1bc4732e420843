"""What if it were trained otherwise?"""
