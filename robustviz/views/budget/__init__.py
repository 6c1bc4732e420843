"""Why can robustness cost accuracy?"""
