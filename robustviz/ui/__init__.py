"""The dashboard's Streamlit code: the shell, the pickers, the caches, the forms. Pages stay thin
because of it.
"""
