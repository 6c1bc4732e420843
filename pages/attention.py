"""Attention: where a network looks, and what PART makes of it."""

import streamlit as st

from robustviz.ui import context, paint, quadrants, shell

st.title("Which pixels matter, and who gets to touch them?")
here = context.sidebar()
paint.what_if(here)
quadrants.puzzle(here)
shell.reset_button()
