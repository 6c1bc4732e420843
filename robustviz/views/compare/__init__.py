"""Which network holds, and what does it cost?"""
