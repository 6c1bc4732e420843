"""Glossary: the words and the methods, from the same tables that forms and tooltips read."""

import streamlit as st

from robustviz.ui import words

with st.container(key="title-row"):
    st.title("What do the words mean?", anchor=False)
words.show()
