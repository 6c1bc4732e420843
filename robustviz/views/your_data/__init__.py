"""What does a network make of your own pictures?"""
