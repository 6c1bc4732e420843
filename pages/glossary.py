"""Glossary: the methods and the words, from the same tables that the forms and tooltips read."""

import streamlit as st

from robustviz import registry
from robustviz.terms import TERMS

st.title("What do the words mean?")
st.header("Methods")
for key in registry.keys("method"):
    method = registry.get("method", key)
    st.markdown(
        f"**{method.label}** (`{key}`, {method.group}). {method.text}  \n*{method.paper}.*"
        f" {method.choices}"
    )
st.header("Words")
for title, text in sorted(TERMS.values(), key=lambda entry: entry[0].lower()):
    st.markdown(f"**{title}.** {text}")
