"""Contributions: how few features carry an answer, and what logit pairing does to them."""

import streamlit as st

from robustviz.ui import context, shell

st.title("How many features carry the answer?")
here = context.sidebar()
shell.reset_button()
