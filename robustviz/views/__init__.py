"""A question is a folder: what is asked and answered, who measures it, how it is drawn, how a page
shows it.
"""
