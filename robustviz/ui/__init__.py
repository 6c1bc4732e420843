"""The dashboard's Streamlit code that all pages share: the frame around a page, the pickers, the
caches, the forms.
"""
