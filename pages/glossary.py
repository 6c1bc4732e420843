"""Glossary: the terms and the methods, from the tables that forms and tooltips use too."""

import streamlit as st

from robustviz.ui import words

with st.container(key="title-row"):
    st.title("What do the words mean?", anchor=False)
words.show()
