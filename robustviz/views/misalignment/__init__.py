"""Why do the images of a class not stay with it?"""
