"""Features: what a network makes of clean and attacked images just before its last layer."""

import streamlit as st

from robustviz.ui import context, shell

st.title("Do attacked images stay with their class?")
here = context.sidebar()
shell.reset_button()
