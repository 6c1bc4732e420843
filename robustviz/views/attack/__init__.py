"""How little does it take to fool a network?"""
